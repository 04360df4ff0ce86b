"""Stages described by a fleet, from the shell: real registries, real Redis, real workers."""

from __future__ import annotations

import json

import pytest

from tests.services import ImageMaker, stage_id_of

pytestmark = pytest.mark.usefixtures("fleet")


@pytest.fixture
def repository(registry):
    return f"{registry.host}/source/app"


@pytest.fixture
def lose_config(registry):
    """Takes the configuration of a stage's image out of the registry, which goes on listing the stage."""

    def lose(path, stage_id):
        with ImageMaker(registry) as maker, registry.session() as session:
            manifest = maker.manifest(path, stage_id)
            assert manifest is not None
            config = json.loads(manifest)["config"]["digest"]
            session.delete(f"http://{registry.host}/v2/{path}/blobs/{config}", timeout=10).raise_for_status()

    return lose


def test_the_results_are_the_descriptions_and_a_list_asks_for_the_tag_list_alone(
    command, registry, repository, push_stages
):
    stages = push_stages(registry, "source/app", 6)
    described = command("describe", repository, "--json")
    *outcomes, summary = described.objects
    assert (0, "", 6) == (described.code, described.err, summary["succeeded"])
    results = {outcome["item"]: outcome["result"] for outcome in outcomes}
    assert {stage: f"{repository}@{digest}" for stage, digest in stages.items()} == {
        stage: result["repo_digest"] for stage, result in results.items()
    }

    registry.forget_requests()
    listed = command("list", repository, "-l", "--json").objects
    assert results == {found["stage_id"]: found for found in listed}
    # The list, and one more page that brings nothing.
    assert ["/v2/source/app/tags/list"] * 2 == [path.partition("?")[0] for _, path, _ in registry.requests()]


def test_a_broken_stage_fails_by_itself_and_gives_exit_code_1(
    command, registry, repository, push_stages, lose_config
):
    broken, *sound = push_stages(registry, "source/app", 3)
    lose_config("source/app", broken)
    result = command("describe", repository, "--json")
    *outcomes, summary = result.objects
    assert (1, 1, 2) == (result.code, summary["failed"], summary["succeeded"])
    states = {outcome["item"]: outcome["error"] and outcome["error"]["type"] for outcome in outcomes}
    assert {broken: "BrokenStageError"} | dict.fromkeys(sound) == states
    assert f"{broken} failed: " in result.err


def test_a_stage_that_is_not_there_is_refused_and_no_run_starts(command, registry, repository, push_stages):
    (stage,) = push_stages(registry, "source/app", 1)
    unknown = stage_id_of("nowhere")
    result = command("describe", repository, stage, unknown)
    assert (2, "") == (result.code, result.out)
    assert f"does not have {unknown}" in result.err
    assert [] == command("runs", "list", "--json").objects
