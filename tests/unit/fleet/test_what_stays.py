"""Who deletes is told which tags of ours a repository keeps."""

from __future__ import annotations

REPOSITORY = "src.test/app"


def test_a_run_that_deletes_tells_once_which_tags_a_repository_keeps(
    fleet, fake_worker, registries, notices, make_stage
):
    """W37, R48: one line, however many items and runs."""
    registries.staying = {REPOSITORY: "src.test/app keeps stagefleet-probe-1-a"}
    heard: list[object] = []
    fleet.for_each_delete_stage(REPOSITORY, [make_stage(n) for n in range(3)])
    fleet.for_each_delete_stage(REPOSITORY, [make_stage(4)], heard.append)
    assert ["src.test/app keeps stagefleet-probe-1-a"] == notices
    assert 1 == len(heard)


def test_other_runs_and_repositories_tell_nothing_of_it(fleet, fake_worker, registries, notices, make_stage):
    """W37: a copy tries nothing."""
    registries.staying = {REPOSITORY: "src.test/app keeps stagefleet-probe-1-a"}
    fleet.for_each_copy_stage(REPOSITORY, "dst.test/app")
    fleet.for_each_delete_stage("dst.test/app", [make_stage(1)])
    assert [] == notices
