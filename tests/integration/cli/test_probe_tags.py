"""What commands leave behind, and say, where a registry lets nobody delete."""

from __future__ import annotations

import json

import pytest

from tests.services import Answer, ImageMaker

IMMUTABLE = json.dumps({"errors": [{"code": "DENIED", "message": "matched the immutability rule"}]}).encode()


@pytest.fixture
def immutable(registry, make_front):
    """A registry before which every DELETE of a manifest that is there is refused."""

    def refuse(method, path):
        if method != "DELETE" or "/manifests/" not in path:
            return None
        with ImageMaker(registry) as maker:
            repository, _, name = path.removeprefix("/v2/").partition("/manifests/")
            if name.startswith("sha256:") and maker.manifest(repository, name) is None:
                return None
        return Answer(412, IMMUTABLE, (("Content-Type", "application/json"),))

    return make_front(registry.host, refuse)


def probes(registry):
    with ImageMaker(registry) as maker:
        return {tag for tag in maker.tags("team/app") if "probe" in tag}


def test_an_embedded_command_names_the_tags_of_a_probe_that_stay(command, registry, immutable, push_stages):
    """W37, R48: its worker's log is seen by nobody, and the fleet that knows is gone with the command."""
    stages = list(push_stages(registry, "team/app", 2))
    result = command("delete", f"{immutable.host}/team/app", *stages)
    assert 1 == result.code
    assert "matched the immutability rule" in result.err
    (line,) = [line for line in result.err.splitlines() if "stagefleet-probe-" in line]
    assert 2 == len(left := probes(registry))
    assert all(tag in line for tag in left)


def test_a_fleets_command_is_told_by_its_workers_once_and_only_where_tags_stay(
    command, fleet, registry, immutable, push_stages
):
    """W37: the worker that found out is another process."""
    stages = list(push_stages(registry, "team/app", 3))
    result = command("delete", f"{registry.host}/team/app", stages.pop())
    assert (0, set(), False) == (result.code, probes(registry), "probe" in result.err)
    result = command("delete", f"{immutable.host}/team/app", *stages)
    assert 1 == result.code
    (line,) = [line for line in result.err.splitlines() if "stagefleet-probe-" in line]
    assert all(tag in line for tag in probes(registry))
