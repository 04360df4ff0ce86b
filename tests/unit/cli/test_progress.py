from __future__ import annotations

import io

import pytest
from rich.console import Console

from stagefleet.cli.progress import ProgressBar, ProgressLines, RunReport, describe_failure, describe_run
from stagefleet.registry.http.origins import advise_tls
from stagefleet.runs.models import ErrorInfo, ItemState, Outcome, Run, RunSpec, RunState


def outcome(number_bytes=0):
    return Outcome(item="x", state=ItemState.SUCCEEDED, bytes=number_bytes)


def test_a_bar_shows_stages_bytes_rate_and_time_left():
    screen = io.StringIO()
    bar = ProgressBar(4, Console(file=screen, force_terminal=True, width=120))
    bar.start()
    for _ in range(3):
        bar.advance(outcome(2_000_000))
    bar.note("a stage failed [red]")
    bar.stop()
    shown = screen.getvalue()
    for part in ("3/4", "stages", "6.0 MB", "/s", "left", "stagefleet: a stage failed [red]"):
        assert part in shown


def test_plain_lines_come_at_most_each_ten_seconds():
    now = [0.0]
    lines: list[str] = []
    display = ProgressLines(100, clock=lambda: now[0], write=lines.append)
    for _ in range(20):
        now[0] += 1
        display.advance(outcome(1_000_000))
    assert [
        "10 of 100 stages, 10.0 MB, 1.0 MB/s, 90 s left",
        "20 of 100 stages, 20.0 MB, 1.0 MB/s, 80 s left",
    ] == lines


@pytest.mark.parametrize("total", [0, 1])
def test_meters_bear_small_runs(total):
    display = ProgressLines(total, write=lambda _: None)
    display.start()
    display.advance(outcome())
    display.stop()


def test_a_cache_that_failed_is_named_with_the_command_that_looks_at_it(capsys):
    run = Run("r", RunSpec(operation="publish_stage"), RunState.SUCCEEDED, total=1, succeeded=1)
    report = RunReport(run, as_json=False)
    caches = {"near.test/app": "failed: near.test does not answer"}
    report.show(Outcome(item="x", state=ItemState.SUCCEEDED, result={"caches": caches}))
    report.conclude(run)
    told = capsys.readouterr().err
    assert "near.test/app (1); look at each: stagefleet list near.test/app" in told


@pytest.mark.parametrize(("total", "words"), [(1, "1 stage ("), (2, "2 stages (")])
def test_one_stage_is_no_stages(total, words):
    run = Run("r", RunSpec(operation="copy_stage"), RunState.SUCCEEDED, total=total, succeeded=total)
    assert words in describe_run(run)


@pytest.mark.parametrize(
    ("in_fleet", "end"), [(True, " (in the settings of the workers)"), (False, "in stagefleet.toml")]
)
def test_advice_to_change_a_setting_says_whose(in_fleet, end):
    """A worker goes by its own settings, and its advice is read where a command runs."""
    advice = advise_tls("r.test:5000")
    failed = Outcome(
        item="x", state=ItemState.FAILED, error=ErrorInfo(type="PlainHttpError", message=f"no: {advice}")
    )
    assert describe_failure(failed, in_fleet=in_fleet).endswith(end)
    other = failed.model_copy(update={"error": ErrorInfo(type="NotFoundError", message="gone")})
    assert "x failed: gone" == describe_failure(other, in_fleet=in_fleet)


def test_what_results_note_is_told_once_with_its_count(capsys):
    run = Run("r", RunSpec(operation="copy_stage"), RunState.SUCCEEDED, total=3, succeeded=3)
    report = RunReport(run, as_json=False)
    for notes in (["a layer is absent"], ["a layer is absent", "another"], None):
        result = None if notes is None else {"notes": notes}
        report.show(Outcome(item="x", state=ItemState.SUCCEEDED, result=result))
    report.conclude(run)
    told = capsys.readouterr().err
    assert "a layer is absent (2)" in told
    assert "another (1)" in told
