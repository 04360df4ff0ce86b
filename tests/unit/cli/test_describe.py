from __future__ import annotations

import pytest

from stagefleet.names import Repository
from stagefleet.settings import ProjectSettings

pytestmark = pytest.mark.usefixtures("in_fleet")


def test_all_stages_are_described_and_people_are_told_in_one_line(command, fake_worker):
    result = command("describe", "src.test/app")
    assert (0, 1) == (result.code, len(result.out.splitlines()))
    assert "succeeded: 5 stages (5 described)" in result.out


def test_where_there_is_no_stage_that_is_said(command, fake_worker, registries):
    registries.stages["nothing.test/app"] = []
    result = command("describe", "nothing.test/app")
    assert (0, "stagefleet: there is nothing to describe\n") == (result.code, result.err)


def test_a_dry_run_says_what_would_be_described_and_starts_nothing(command, ledger, make_stage):
    result = command("describe", "src.test/app", make_stage(1), "--dry-run", "--json")
    planned, summary = result.objects
    assert (make_stage(1), "planned", 1) == (planned["item"], planned["state"], summary["total"])
    assert [] == list(ledger.runs())


@pytest.mark.parametrize(("options", "parallel"), [((), 3), (("--final",), 3), (("--final", "-j", "7"), 7)])
def test_a_project_s_limit_holds_for_all_its_storages(command, services, ledger, options, parallel):
    project = ProjectSettings(
        primary=Repository("src.test", "app"), final=Repository("dst.test", "app"), parallel=3
    )
    services.settings = services.settings.model_copy(update={"projects": {"app": project}})
    assert 0 == command("describe", "--project", "app", *options, "--detach").code
    (run,) = ledger.runs()
    assert (parallel, "describe_stage") == (run.spec.parallel, run.spec.operation)
