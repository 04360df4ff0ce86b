"""Look at Flower's pages in chromium, and draw them: `python -m scripts.pages`.

The pictures in `docs/images` are replaced when all that the pages should show was found on them.
"""

from __future__ import annotations

import shutil
import sys
from contextlib import ExitStack
from pathlib import Path

from scripts.demo.shell import claim, tell
from scripts.lifecycle import run_with_services
from scripts.pages.browser import Browser
from scripts.pages.fleet import WatchedFleet
from scripts.pages.reports import look_at_report
from scripts.pages.runs import Runs
from scripts.pages.views import Views

_IMAGES = Path(__file__).parents[2] / "docs" / "images"


def main() -> int:
    """Look at the pages; returns the exit code, 0 only if they show all that they should."""
    return run_with_services(_look)


def _look(folder: Path, stack: ExitStack) -> None:
    browser = Browser(folder / "browser", stack)
    fleet = WatchedFleet(folder, stack)
    fleet.start_flower()
    views = Views(fleet, browser, folder)
    views.log_in()
    runs = Runs(fleet)
    runs.submit()
    views.check_broker({"copy": str(runs.waiting)})
    views.draw("broker")
    fleet.start_workers()
    runs.follow()
    uuids = views.check_tasks(runs.tasks)
    views.draw("tasks")
    views.check_search(runs.tasks[0].run_id, runs.tasks)
    states = runs.states
    views.check_runs(states)
    views.draw("runs")
    (failing,) = (run_id for run_id, state in states.items() if state == "failed")
    views.check_run(failing, ["failed", "ForbiddenError", "BrokenStageError", "Try again what failed"])
    views.draw("run")
    failed = next(task for task in runs.tasks if task.state == "FAILURE")
    views.check_task(
        uuids["FAILURE"],
        {"Status": "FAILURE", "Keyword arguments": failed.run_id, "Exception": "Error", "Received": ":"},
    )
    views.draw("task")
    views.pictures.append(look_at_report(fleet, browser, failed, folder))
    online = {name: "Online" for names in fleet.workers.values() for name in names}
    views.check_workers(online)
    views.check_worker()
    lost = fleet.workers[fleet.lose_machine()]
    views.check_workers(online | dict.fromkeys(lost, "Offline"))
    views.draw("workers")
    views.check_workers({name: state for name, state in online.items() if name not in lost})
    claim("a machine that is lost is shown offline, and leaves the list; no page shows a secret")
    _IMAGES.mkdir(exist_ok=True)
    for picture in views.pictures:
        shutil.copy(picture, _IMAGES)
    tell(f"Look at what was drawn: {', '.join(str(_IMAGES / picture.name) for picture in views.pictures)}")


if __name__ == "__main__":
    sys.exit(main())
