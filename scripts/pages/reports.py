"""The report of a run in a browser: what it shows is checked, and drawn for the documentation."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

from scripts.demo.shell import claim
from scripts.pages.browser import Browser
from scripts.pages.fleet import WatchedFleet
from scripts.pages.runs import ShownTask

__all__ = ["look_at_report"]

_BROKEN_RULES = """
const table = document.querySelector('.scroll');
return getComputedStyle(table).overflowX === 'auto' ? [] : ['the style of the page'];
"""
_LOADED = "return performance.getEntriesByType('resource').map(entry => entry.name);"
_BARS = """
return [...document.querySelectorAll('svg[role=img] rect')].map(bar => bar.getBoundingClientRect().height);
"""


def look_at_report(fleet: WatchedFleet, browser: Browser, task: ShownTask, folder: Path) -> Path:
    """Write the report of a run in which a task failed, check what a browser shows of it, and draw it.

    Returns:
        The picture.

    Raises:
        ClaimError: It does not show what it should.
    """
    file = folder / "report.html"
    fleet.shell.run(f"stagefleet report {task.run_id} --html {quote(str(file))}")
    browser.open(file.as_uri())
    text = str(browser.run("return document.body.innerText"))
    wanted = (task.run_id, task.stage, task.told, "Failures", "Registries", "Slowest items")
    lacking = [part for part in wanted if part not in text]
    claim("the report shows the run, the stage that failed and why", *lacking)
    shown = [name for name, secret in fleet.secrets.items() if secret in browser.html]
    claim("it has its style and its bars, loads nothing, and shows no secret", *shown, *_faults(browser))
    picture = folder / "report.png"
    browser.draw(picture)
    return picture


def _faults(browser: Browser) -> list[str]:
    faults = [*browser.run(_BROKEN_RULES), *browser.run(_LOADED)]
    heights = browser.run(_BARS)
    return faults if heights and min(heights) > 0 else [*faults, "the bars of the time lines"]
