"""What a person sees of runs in each of their states, and can do about them."""

from __future__ import annotations

from typing import Any

import pytest

from stagefleet.runs.models import ErrorInfo, ItemState, ItemTransfer, NextRun, RunSpec, WorkerInfo
from tests.integration.pages.conftest import MARKUP, VIEWER, Pages, Runs

ROWS = """
return [...document.querySelectorAll('#runs-table tbody tr')].map(
    row => [...row.cells].map(cell => cell.innerText.replace(/\\s+/g, ' ')));
"""


def listed(pages: Pages, run_id: str) -> list[str]:
    """The cells of a run in the list."""
    pages.open("runs")
    rows = pages.wait_for(ROWS, f"run {run_id} is listed", lambda rows: any(run_id in row[0] for row in rows))
    return next(row for row in rows if run_id in row[0])


def test_a_run_that_is_submitted(pages: Pages, runs: Runs):
    run_id = runs.ledger.open(RunSpec(operation="copy_stage", options={"source": "a.test/x"})).run_id
    text = pages.show_run(run_id, "submitting")
    assert "0 of 0" in text
    assert ["Cancel", "Cancel now"] == pages.buttons()
    assert ["submitting", "0 of 0", "0", "—"] == listed(pages, run_id)[2:6]


def test_a_run_under_way(pages: Pages, runs: Runs):
    run_id = runs.start("a", "b", "c", "d", key="pipeline-7")
    runs.finish(run_id, 0, bytes=5 * 1024 * 1024, seconds=3.5)
    runs.let_wait(run_id, 1, "registry.test:5000", "429 Too Many Requests")
    assert runs.ledger.claim(run_id, 2, "worker-7@builder-1")
    text = pages.show_run(run_id, "running")
    for part in (
        "copy_stage registry.test:5000/app/stages → mirror.test/app",
        "1 of 4",
        "1 item waits to be tried again for registry.test:5000 (429 Too Many Requests) until",
        "pipeline-7",
        "5.0 MiB",
        "3.5 s",
        "worker-7@builder-1",
        "1 succeeded, 0 skipped, 0 failed, 0 cancelled",
        "written to",
    ):
        assert part in text
    assert ["Cancel", "Cancel now", "Pause"] == pages.buttons()
    cells = listed(pages, run_id)
    assert ["running", "1 of 4", "0"] == cells[2:5]
    assert "429 Too Many Requests" in cells[6]


def test_what_workers_move_of_large_layers(pages: Pages, runs: Runs):
    run_id = runs.start("a")
    assert runs.ledger.claim(run_id, 0, "worker-7@builder-1")
    moving = (ItemTransfer(run_id, 0, 512 * 1024 * 1024, 3 * 1024**3),)
    worker = WorkerInfo("worker-7@builder-1", 4, ("copy",), transfers=moving)
    runs.ledger.heartbeats.beat(worker, seconds=60)
    assert "512.0 MiB of 3.0 GiB" in pages.show_run(run_id, "running")
    runs.ledger.heartbeats.beat(worker, seconds=0)
    runs.ledger.cancel(run_id)


def test_a_run_goes_on_without_a_reload(pages: Pages, runs: Runs):
    run_id = runs.start("a", "b")
    pages.show_run(run_id, "running")
    pages.browser.run("window.same = true")
    runs.finish(run_id, 0)
    pages.wait_for(
        "return document.getElementById('done').innerText", "one is done", lambda shown: shown == "1 of 2"
    )
    runs.finish(run_id, 1)
    pages.wait_for("return document.getElementById('state').innerText === 'succeeded'", "it has ended")
    assert pages.browser.run("return window.same"), "nothing was loaded again"


def test_a_run_that_failed_tells_why_and_is_tried_again(pages: Pages, runs: Runs):
    run_id = runs.start("good", "bad")
    runs.finish(run_id, 0)
    runs.fail(run_id, 1, "layer sha256:0a is missing")
    text = pages.show_run(run_id, "failed")
    assert "BrokenStageError: layer sha256:0a is missing" in text
    assert "BrokenStageError (1): Delete the stage where it is broken" in text, "it says what to do"
    assert ["Try again what failed"] == pages.buttons()
    pages.browser.run("document.querySelector('[data-action=retry]').click()")
    again = pages.wait_for(
        "const link = document.querySelector('#action-result a'); return link && link.href",
        "a new run is named",
    ).rpartition("/")[2]
    run = runs.ledger.run(again)
    assert (run_id, 1) == (run.spec.parent, run.total)
    runs.ledger.cancel(again)


def test_an_item_counts_for_the_registry_that_its_failure_names(pages: Pages, runs: Runs):
    run_id = runs.start("a", "b", "c")
    runs.finish(run_id, 0)
    runs.fail(run_id, 1, "mirror.test answered 500")
    runs.fail(run_id, 2, "registry.test:5000 has no blob sha256:0a")
    pages.show_run(run_id, "failed")
    rows = pages.browser.run(
        "return [...document.querySelectorAll('#hosts tbody tr')].map("
        "row => [...row.cells].slice(0, 4).map(cell => cell.innerText.replace(/\\s+/g, ' ')))"
    )
    assert [["mirror.test", "written to", "1", "1"], ["registry.test:5000", "read from", "0", "1"]] == rows
    assert "counts for the registry that its failure names" in pages.text_of("#hosts")


def test_the_runs_of_a_mirror_lead_on(pages: Pages, runs: Runs):
    second = runs.ledger.open(RunSpec(operation="prune_stages", key="chain 2", follows=True))
    runs.ledger.append(second, ["old"])
    following = NextRun(run_id=second.run_id, token=second.token, items=1)
    first = runs.start("a", next=following)
    assert f"Then comes {second.run_id}" in " ".join(pages.show_run(first, "running").split())
    for run_id in (first, second.run_id):
        runs.ledger.cancel(run_id)


def test_a_run_that_is_cancelled(pages: Pages, runs: Runs):
    run_id = runs.start("a", "b", "c")
    assert runs.ledger.claim(run_id, 0, "worker-7@builder-1")
    pages.show_run(run_id, "running")
    pages.browser.run("document.querySelector('[data-action=cancel]').click()")
    pages.wait_for("return document.getElementById('state').innerText === 'cancelling'", "it is cancelled")
    assert ["Cancel now"] == pages.buttons(), "what runs can still be stopped"
    done = runs.start("a")
    runs.ledger.cancel(done)
    assert "1 cancelled" in pages.show_run(done, "cancelled")
    assert ["Try again what failed"] == pages.buttons()
    assert "cancelled" == listed(pages, done)[2]


def test_a_run_that_is_paused_goes_on_when_it_is_resumed(pages: Pages, runs: Runs):
    run_id = runs.start("a", "b")
    assert runs.ledger.claim(run_id, 0, "worker-7@builder-1")
    pages.show_run(run_id, "running")
    pages.browser.run("document.querySelector('[data-action=pause]').click()")
    pages.wait_for("return document.getElementById('state').innerText === 'paused'", "it is paused")
    assert ["Cancel", "Cancel now", "Resume"] == pages.buttons()
    assert "paused" == listed(pages, run_id)[2]
    assert None is runs.ledger.claim(run_id, 1, "worker-7@builder-1")
    pages.show_run(run_id, "paused")
    pages.browser.run("document.querySelector('[data-action=resume]').click()")
    pages.wait_for("return document.getElementById('state').innerText === 'running'", "it goes on")
    runs.finish(run_id, 1)
    runs.ledger.cancel(run_id)


def test_a_run_that_succeeded(pages: Pages, runs: Runs):
    run_id = runs.start("a")
    runs.finish(run_id, 0)
    text = pages.show_run(run_id, "succeeded")
    assert "No item is under way." in text
    assert [] == pages.buttons()


def test_a_run_with_an_error_of_its_own(pages: Pages, runs: Runs):
    submission = runs.ledger.open(RunSpec(operation="copy_stage", key="refused"))
    runs.ledger.fail(submission, ErrorInfo(type="RepositoryNotFoundError", message="there is no a.test/x"))
    assert "RepositoryNotFoundError: there is no a.test/x" in pages.show_run(submission.run_id, "failed")
    assert "there is no a.test/x" in listed(pages, submission.run_id)[6]


def test_a_run_of_another_release(pages: Pages, runs: Runs):
    run_id = runs.start("a")
    runs.redis.client().hset(f"stagefleet:run:{run_id}", "schema", "99.0")
    assert "unreadable" == listed(pages, run_id)[2]
    pages.open(f"runs/{run_id}")
    told = pages.wait_for("return document.getElementById('problem').innerText", "it is told")
    assert "99.0" in told
    runs.redis.client().hset(f"stagefleet:run:{run_id}", "schema", "1.0")
    runs.ledger.cancel(run_id)


def test_names_with_markup_are_text(pages: Pages, runs: Runs):
    options = {"source": f"registry.test/{MARKUP}", "destination": MARKUP}
    run_id = runs.start(MARKUP, f"b{MARKUP}", "c", options=options, key=MARKUP)
    runs.fail(run_id, 0, MARKUP)
    runs.let_wait(run_id, 1, MARKUP, MARKUP)
    assert runs.ledger.claim(run_id, 2, MARKUP)
    text = pages.show_run(run_id, "running")
    assert text.count(MARKUP) >= 8
    assert MARKUP in listed(pages, run_id)[1]
    assert MARKUP in listed(pages, run_id)[6]
    assert 0 == pages.browser.run("return document.querySelectorAll('main img, main b').length")
    assert "rendered" != pages.browser.run("return document.title")
    pages.open("runs/%3Cb%3Ex")
    assert 0 == pages.browser.run("return document.querySelectorAll('main b').length")
    runs.ledger.cancel(run_id)


def test_a_viewer_sees_all_and_no_button(browser: Any, flower: str, runs: Runs):
    viewer = Pages(browser, flower)
    viewer.log_in(VIEWER)
    run_id = runs.start("a")
    viewer.show_run(run_id, "running")
    assert 0 == browser.run("return document.querySelectorAll('main button').length")
    browser.run(
        f"window.answer = null; fetch('/api/runs/{run_id}/cancel', {{method: 'POST', body: '{{}}', "
        "headers: {'Content-Type': 'application/json'}}).then(answer => { window.answer = answer.status; })"
    )
    assert 403 == viewer.wait_for("return window.answer", "it is answered")
    runs.ledger.cancel(run_id)


def test_an_outage_is_told_on_the_open_page_and_its_end(pages: Pages, runs: Runs):
    run_id = runs.start("a", "b")
    pages.show_run(run_id, "running")
    pages.browser.run("window.same = true")
    runs.redis.kill()
    told = pages.wait_for(
        "return document.getElementById('problem').innerText", "the outage", lambda shown: "Redis" in shown
    )
    assert "What is shown is of" in told
    assert "1 of 2" not in pages.text_of("#done")
    assert "0 of 2" in pages.text_of("#done"), "what was shown stays"
    runs.redis.start()
    pages.wait_for("return document.getElementById('problem').innerText === ''", "it is over")
    runs.finish(run_id, 0)
    pages.wait_for("return document.getElementById('done').innerText === '1 of 2'", "it goes on")
    assert pages.browser.run("return window.same")
    runs.ledger.cancel(run_id)


def test_a_run_that_expires_while_it_is_looked_at(pages: Pages, runs: Runs):
    run_id = runs.start("a")
    pages.show_run(run_id, "running")
    client: Any = runs.redis.client()
    client.delete(*client.scan_iter(f"*run:{run_id}*"))
    told = pages.wait_for("return document.getElementById('problem').innerText", "it is told")
    assert "it has expired" in told
    assert run_id in pages.text_of("main"), "what was shown stays"


@pytest.mark.parametrize("path", ["runs", "run"])
def test_nothing_is_wider_than_a_telephone(pages: Pages, runs: Runs, path: str):
    run_id = runs.start("a" * 56 + "-1764000000000", "b" * 56 + "-1764000000000")
    runs.fail(run_id, 0, "x" * 300)
    pages.browser.resize(390, 844)
    try:
        pages.show_run(run_id, "running") if path == "run" else listed(pages, run_id)
        widest = (
            "return Math.max(...[...document.querySelectorAll('main *')].map("
            "element => element.getBoundingClientRect().right))"
        )
        assert pages.browser.run(widest) <= 390
        small = (
            "return [...document.querySelectorAll('#actions button')].filter("
            "button => button.getBoundingClientRect().height < 44).length"
        )
        assert 0 == pages.browser.run(small), "a finger hits each button"
    finally:
        pages.browser.resize()
    runs.ledger.cancel(run_id)


def test_the_list_is_filtered(pages: Pages, runs: Runs):
    odd = runs.start("a", operation="delete_stage", options={"repository": "odd.test/x"})
    pages.open("runs")
    pages.wait_for(ROWS, "there are runs")
    pages.browser.run(
        "const field = document.querySelector('[name=repository]'); field.value = 'odd.test';"
        "field.dispatchEvent(new Event('input', {bubbles: true}))"
    )
    pages.wait_for(ROWS, "one run is left", lambda rows: [row[0] for row in rows] == [odd])
    runs.ledger.cancel(odd)


def test_each_filter_that_is_offered_is_taken(pages: Pages, runs: Runs):
    live = runs.start("a")
    ended = runs.start()
    pages.open("runs")
    pages.wait_for(ROWS, "there are runs")
    options = "[...document.querySelector('[name=state]').options]"
    offered = pages.browser.run(f"return {options}.map(option => option.value)")
    assert len(offered) >= 7
    for value in offered:
        states = set(value.split(",")) if value else set()
        pages.browser.run(
            f"const list = document.querySelector('[name=state]'); list.value = '{value}';"
            "list.dispatchEvent(new Event('input', {bubbles: true}))"
        )

        def fit(rows: list[list[str]], states: set[str] = states) -> bool:
            shown = {row[0]: row[2] for row in rows}
            return (
                (not states or states.issuperset(shown.values()))
                and (live in shown) == (not states or "running" in states)
                and (ended in shown) == (not states or "succeeded" in states)
            )

        pages.wait_for(ROWS, f"only runs that are {value or 'there'}", fit)
        assert "" == pages.browser.run("return document.getElementById('problem').innerText")
    runs.ledger.cancel(live)


def test_flower_s_bar_leads_to_the_runs(pages: Pages):
    pages.open("workers")
    links = "[...document.querySelectorAll('.app-nav .nav-link')]"
    bar = f"return {links}.map(link => link.innerText)"
    assert ["Runs", "Workers", "Tasks", "Broker"] == pages.browser.run(bar)[:4]


def test_skipped_and_other_outcomes_are_shown(pages: Pages, runs: Runs):
    run_id = runs.start("a", "b\x1fhost-2", "c")
    runs.finish(run_id, 0, ItemState.SKIPPED)
    runs.finish(run_id, 1)
    text = pages.show_run(run_id, "running")
    assert "b on host-2" in text
    assert "1 succeeded, 1 skipped" in text
    runs.ledger.cancel(run_id)
