"""Mirrors from the shell: what the source no longer has goes, in real registries, by real workers."""

from __future__ import annotations

import json

import pytest

from tests.services import ImageMaker, stage_id_of

SOURCE, DESTINATION = "source/app", "mirror/app"


@pytest.fixture
def source(registry):
    return f"{registry.host}/{SOURCE}"


@pytest.fixture
def destination(registry):
    return f"{registry.host}/{DESTINATION}"


@pytest.fixture
def push(registry):
    def push(path, *seeds, tag=None):
        with ImageMaker(registry) as maker:
            for seed in seeds:
                maker.push_image(path, tag or stage_id_of(seed), layers=[b"shared", seed.encode()])
        return [stage_id_of(seed) for seed in seeds]

    return push


@pytest.fixture
def tags(registry):
    def tags():
        with ImageMaker(registry) as maker:
            return set(maker.tags(DESTINATION))

    return tags


@pytest.fixture
def stages(push):
    """The source has twelve stages, the destination ten of them and one more; and a tag that is no stage."""
    both = [f"both {number}" for number in range(10)]
    (old,) = push(DESTINATION, "old")
    push(DESTINATION, *both)
    push(DESTINATION, "release", tag="v1.0")
    push(SOURCE, *both, "new 1", "new 2")
    return {"old": old, "kept": {stage_id_of(seed) for seed in [*both, "new 1", "new 2"]}}


@pytest.mark.usefixtures("fleet")
def test_a_mirror_copies_and_then_deletes(command, source, destination, stages, tags):
    planned = command("copy", source, destination, "--prune", "--dry-run")
    assert 0 == planned.code
    *_, head, deletion, end = planned.out.splitlines()
    assert ("to be deleted:", f"{stages['old']}  planned") == (head, deletion)
    assert end.startswith("dry run: 1 planned")
    assert stages["old"] in tags()

    done = command("copy", source, destination, "--prune", "--json")
    assert 0 == done.code
    copied, deleted = (found for found in done.objects if "run" in found)
    assert (2, 10, 1) == (copied["succeeded"], copied["skipped"], deleted["succeeded"])
    assert done.objects[-1] == deleted
    assert stages["kept"] | {"v1.0"} == tags()
    again = command("copy", source, destination, "--prune")
    assert (0, 1) == (again.code, len(again.out.splitlines()))


def test_an_embedded_mirror_does_the_same(command, source, destination, stages, tags, tmp_path):
    file = tmp_path / "mirror.json"
    done = command("copy", source, destination, "--prune", "--embedded", "--report", str(file))
    assert 0 == done.code
    report = json.loads(file.read_text())
    assert (12, [1]) == (report["total"], [run["total"] for run in report["following"]])
    assert stages["kept"] | {"v1.0"} == tags()


@pytest.mark.usefixtures("fleet")
def test_too_much_is_not_deleted_and_both_numbers_are_named(command, source, destination, stages, tags):
    for more in (("--dry-run",), ()):
        done = command("copy", source, destination, "--prune", "--max-percent", "9", *more)
        assert 1 == done.code
        assert f"1 of the 11 stages of {destination} are not in {source}, more than 9 %" in done.err
    assert stages["kept"] | {"v1.0", stages["old"]} == tags()


@pytest.mark.usefixtures("fleet")
def test_a_detached_mirror_goes_on_alone_and_its_key_finds_it(command, source, destination, stages, tags):
    arguments = ("copy", source, destination, "--prune", "--idempotency-key", "nightly")
    copy, deletion = command(*arguments, "--detach").out.split()
    assert 0 == command("runs", "watch", copy).code
    assert 0 == command("runs", "watch", deletion).code
    assert stages["kept"] | {"v1.0"} == tags()
    again = command(*arguments)
    assert 0 == again.code
    assert "nothing was done now" in again.err
    assert [copy, deletion] == [line.split()[1] for line in again.out.splitlines()]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((stage_id_of("both 1"),), "stages that are named"),
        (("--missing-ok",), "--missing-ok"),
        (("--host", "one"), "--host"),
        (("--max-percent", "101"), "--max-percent (max_percent) is 101"),
    ],
)
def test_what_does_not_go_with_it_is_refused(command, source, destination, stages, tags, arguments, told):
    done = command("copy", source, destination, *arguments, "--prune")
    assert (2, True) == (done.code, told in done.err)
    assert stages["old"] in tags()


@pytest.mark.parametrize("repository", ["empty", "absent"])
def test_a_source_without_stages_is_refused(command, registry, destination, stages, tags, push, repository):
    if repository == "empty":
        push("empty", "release", tag="v1.0")
    done = command("copy", f"{registry.host}/{repository}", destination, "--prune", "--max-percent", "100")
    assert (2, "") == (done.code, done.out)
    assert stages["old"] in tags()


@pytest.mark.usefixtures("fleet")
def test_an_index_goes_with_its_members(command, registry, source, destination, push, tags):
    push(SOURCE, "kept")
    push(DESTINATION, "kept")
    with ImageMaker(registry) as maker:
        member = maker.push_image(DESTINATION, stage_id_of("member"), layers=[b"member"], oci=True)
        maker.push_index(DESTINATION, stage_id_of("index", None), [member])
    done = command("copy", source, destination, "--prune", "--max-percent", "70")
    assert 0 == done.code
    assert {stage_id_of("kept")} == tags()
