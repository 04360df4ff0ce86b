"""Projects from the shell: real registries, an embedded fleet."""

from __future__ import annotations

import pytest

from tests.services import ImageMaker, stage_id_of


@pytest.fixture
def settings_file(tmp_path, registry):
    """Writes the settings of a project with all roles; its first cache is down."""

    def write(**roles):
        host = registry.host
        values = {
            "primary": f"{host}/app/stages",
            "final": f"{host}/app/final",
            "caches": ["127.0.0.1:9/app/cache", f"{host}/app/cache"],
            "secondaries": [f"{host}/old/app"],
        } | roles
        lines = [f"{key} = {value!r}" for key, value in values.items() if value is not None]
        text = "[http]\nretries = 0\n[projects.app]\n" + "\n".join(lines) + "\n"
        (tmp_path / "stagefleet.toml").write_text(text.replace("'", '"'))

    return write


def push_everywhere(registry, count, *paths):
    """The same stages in several repositories; gives the digest of each by its stage id."""
    with ImageMaker(registry) as maker:
        pushed = [
            maker.push_image(path, stage_id_of(f"{number}", 1_700_000_000_000 + number), layers=[b"shared"])
            for path in paths
            for number in range(count)
        ]
    return {image.tag: image.digest for image in pushed}


def test_a_project_is_published_from_the_shell(command, registry, settings_file, push_stages, digests_in):
    settings_file()
    stages = push_stages(registry, "app/stages", 3)
    first = command("publish", "--project", "app", "--caches", "--json")
    assert (0, 3) == (first.code, first.objects[-1]["succeeded"])
    assert stages == digests_in(registry, "app/final") == digests_in(registry, "app/cache")
    states = {min(outcome["result"]["caches"].values()) for outcome in first.objects[:-1]}
    assert {"copied"} == states
    assert "could not be given their stages: 127.0.0.1:9/app/cache (3)" in first.err

    again = command("publish", "--project", "app", "--json", *stages)
    assert (0, 3) == (again.code, again.objects[-1]["skipped"])
    assert {f"{registry.host}/app/final:{stage}" for stage in stages} == {
        outcome["result"]["name"] for outcome in again.objects[:-1]
    }


def test_what_should_be_built_fails_by_name(command, registry, settings_file, push_stages):
    settings_file()
    (stage,) = push_stages(registry, "app/stages", 1)
    result = command("publish", "--project", "app", "--should-be-built", "--json", stage)
    assert (1, 1) == (result.code, result.objects[-1]["failed"])
    assert "StageNotFoundError" == result.objects[0]["error"]["type"]
    assert stage.partition("-")[0] in result.objects[0]["error"]["message"]


def test_addresses_serve_as_well_as_a_project(command, registry, push_stages):
    stages = push_stages(registry, "app/stages", 2)
    host = registry.host
    result = command(
        "publish", "--primary", f"{host}/app/stages", "--final", f"{host}/app/final", "--dry-run"
    )
    assert 0 == result.code
    assert {f"{stage}  planned" for stage in stages} == set(result.out.splitlines()[:-1])


def test_what_the_primary_lacks_is_taken_from_a_secondary(
    command, registry, settings_file, push_stages, digests_in
):
    settings_file()
    stages = push_stages(registry, "old/app", 3)
    named, *_ = stages
    one = command("copy", "--from-project", "app", named.partition("-")[0], "--json")
    assert (0, 1, named) == (one.code, one.objects[-1]["succeeded"], one.objects[0]["item"])

    rest = command("copy", "--from-project", "app", "--json")
    assert (0, 2) == (rest.code, rest.objects[-1]["total"])
    assert stages == digests_in(registry, "app/stages")

    unknown = command("copy", "--from-project", "app", stage_id_of("nowhere"))
    assert 2 == unknown.code
    assert "do not have" in unknown.err


def test_deleting_goes_through_the_caches_and_leaves_the_final_storage(
    command, registry, settings_file, digests_in
):
    settings_file()
    stages = push_everywhere(registry, 2, "app/stages", "app/cache", "app/final")
    gone, kept = stages
    assert 0 == command("delete", "--project", "app", gone).code
    assert {kept} == set(digests_in(registry, "app/stages")) == set(digests_in(registry, "app/cache"))
    assert set(stages) == set(digests_in(registry, "app/final"))

    assert 0 == command("delete", "--project", "app", "--final", "--all", "--yes").code
    assert {} == digests_in(registry, "app/final")
    assert {kept} == set(digests_in(registry, "app/stages"))


def test_listing_a_project_describes_through_its_caches(command, registry, settings_file, push_stages):
    settings_file()
    stages = push_everywhere(registry, 2, "app/stages", "app/cache")
    push_stages(registry, "app/final", 1)
    assert sorted(stages) == command("list", "--project", "app").out.split()
    assert 1 == len(command("list", "--project", "app", "--final").out.split())
    before = len(registry.requests())
    described = command("list", "--project", "app", "--json").objects
    assert {f"{registry.host}/app/stages:{stage}" for stage in stages} == {d["name"] for d in described}
    asked = [path for _, path, _ in registry.requests()[before:] if "/manifests/" in path]
    assert asked
    assert [] == [path for path in asked if "/app/cache/" not in path]


def test_a_project_is_described_through_its_caches_and_its_final_storage_by_itself(
    command, registry, settings_file
):
    settings_file()
    stages = push_everywhere(registry, 2, "app/stages", "app/cache", "app/final")
    registry.forget_requests()
    primary = command("describe", "--project", "app", "--json")
    assert (0, 2) == (primary.code, primary.objects[-1]["succeeded"])
    assert {f"{registry.host}/app/stages@{digest}" for digest in stages.values()} == {
        outcome["result"]["repo_digest"] for outcome in primary.objects[:-1]
    }
    asked = [path for _, path, _ in registry.requests() if "/blobs/" in path]
    assert {"/v2/app/cache"} == {path.partition("/blobs/")[0] for path in asked}

    named, _ = stages
    final = command("describe", "--project", "app", "--final", named, "--json")
    assert (0, [f"{registry.host}/app/final:{named}"]) == (
        final.code,
        [outcome["result"]["name"] for outcome in final.objects[:-1]],
    )


def test_projects_shows_the_state_of_each_storage(command, registry, settings_file, push_stages):
    settings_file()
    push_stages(registry, "app/stages", 2)
    (project,) = command("projects", "--json").objects
    storages = project["storages"]
    assert "app" == project["project"]
    assert ["primary", "final", "cache", "cache", "secondary"] == [each["role"] for each in storages]
    assert [2, 0, None, 0, 0] == [each["stages"] for each in storages]
    assert [True, True, False, True, True] == [each["reachable"] for each in storages]
    text = command("projects", "app")
    assert 0 == text.code  # a cache may be down
    assert "out of reach" in text.out

    settings_file(primary="127.0.0.1:9/app")
    assert 4 == command("projects").code
