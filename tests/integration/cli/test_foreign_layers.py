"""Layers that are marked as to be had elsewhere, on distribution 2.8."""

from __future__ import annotations

import json

import pytest

from tests.integration.cli.conftest import HASTE
from tests.services import Answer, ImageMaker, stage_id_of

CONTENT = b"a layer of Windows"
URL = "https://mcr.example/layer"
STAGE = stage_id_of("windows")


@pytest.fixture
def environment(environment):
    return {**environment, **HASTE, "STAGEFLEET_RUNS__MAX_ATTEMPTS": "3"}


@pytest.fixture
def mirror(make_registry):
    """A registry that takes manifests with foreign layers: 2.8 as it comes does not."""
    registry = make_registry(foreign_urls=True)
    with ImageMaker(registry) as maker:
        pushed = maker.push_image("source", STAGE, foreign_layers=[(CONTENT, [URL])])
        digest = maker.push_blob("source", CONTENT)
    return registry, pushed, digest


def test_a_foreign_layer_stays_where_it_is_unless_asked_for(command, mirror):
    """W14 (go-containerregistry #741): by its media type, and `--foreign-layers`."""
    registry, pushed, digest = mirror
    for name, option, content in (("without", [], None), ("with", ["--foreign-layers"], CONTENT)):
        copied = command("copy", f"{registry.host}/source", f"{registry.host}/{name}", *option)
        assert 0 == copied.code, copied.err
        with ImageMaker(registry) as maker:
            assert pushed.digest == maker.digest(name, STAGE)
            assert content == maker.blob(name, digest)


def test_a_registry_that_takes_no_foreign_layers_is_asked_once(command, mirror, registry):
    """W14: the layer is named, and what to do; one PUT."""
    source, _, _ = mirror
    registry.forget_requests()
    copied = command("copy", f"{source.host}/source", f"{registry.host}/mirror", "--json")
    assert 1 == copied.code
    message = copied.objects[0]["error"]["message"]
    layer = json.loads(mirror[1].manifest)["layers"][0]["digest"]
    assert layer in message
    assert "--foreign-layers" in message
    assert "mcr.example" in message
    puts = [asked for asked in registry.requests() if asked.method == "PUT" and "/manifests/" in asked.path]
    assert 1 == len(puts)
    again = command("copy", f"{source.host}/source", f"{registry.host}/mirror", "--foreign-layers", "--json")
    assert "validation.manifests.urls.allow" in again.objects[0]["error"]["message"]
    assert "--foreign-layers" not in again.objects[0]["error"]["message"]


def test_one_foreign_member_fails_its_index_and_names_the_layer(command, mirror, registry):
    """W14: a multi-platform image."""
    source, pushed, _ = mirror
    index = stage_id_of("index", None)
    with ImageMaker(source) as maker:
        maker.push_index("source", index, [pushed, maker.push_image("source", None, layers=[b"linux"])])
    copied = command("copy", f"{source.host}/source", f"{registry.host}/mirror", index, "--json")
    assert 1 == copied.code
    assert "--foreign-layers" in copied.objects[0]["error"]["message"]


def test_answers_that_name_no_layer_are_read_by_what_was_left_out(command, mirror, make_front):
    """W14: `MANIFEST_BLOB_UNKNOWN` without a digest."""
    source, _, _ = mirror
    body = json.dumps({"errors": [{"code": "MANIFEST_BLOB_UNKNOWN"}]}).encode()

    def rule(method, path):
        return Answer(404, body) if method == "PUT" and "/manifests/" in path else None

    front = make_front(source.host, rule)
    copied = command("copy", f"{source.host}/source", f"{front.host}/mirror")
    assert 1 == copied.code
    assert "--foreign-layers" in copied.err
    assert 1 == sum(method == "PUT" and "/manifests/" in path for method, path, _ in front.requests)


def test_a_mirror_sends_foreign_layers_where_asked(command, mirror):
    registry, _, digest = mirror
    for name, option, content in (("bare", [], None), ("whole", ["--foreign-layers"], CONTENT)):
        copied = command("copy", f"{registry.host}/source", f"{registry.host}/{name}", "--prune", *option)
        assert 0 == copied.code, copied.err
        with ImageMaker(registry) as maker:
            assert content == maker.blob(name, digest)
