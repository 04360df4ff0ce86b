"""Runs whose items end in every way that there is, and the tasks that Flower has to show of them."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from scripts.demo.shell import ensure, tell
from scripts.pages.fleet import WatchedFleet
from tests.services import Answer, ImageMaker, archive_of, stage_id_of

__all__ = ["Runs", "ShownTask"]

_GOOD = 4
_FIRST_MS = 1_764_000_000_000
_HANG_SECONDS = 120
_STATES = {"succeeded": "SUCCESS", "skipped": "SUCCESS", "failed": "FAILURE", "cancelled": "REVOKED"}
_REPOSITORY = "app/stages"
_SHARED_LAYER = archive_of({"shared": b"shared by all stages"})


@dataclass(frozen=True, slots=True)
class ShownTask:
    """A task as Flower should show it.

    Attributes:
        run_id: The run's id.
        stage: The stage's id.
        operation: As the run's options have it.
        state: Celery's state.
        told: What stands in its result or its exception; two tasks are the same, whatever they tell.
    """

    run_id: str
    stage: str
    operation: str
    state: str
    told: str = field(default="", compare=False)


class _SourceTrouble:
    """What the source does about four stages; the others it serves."""

    def __init__(self, maker: ImageMaker) -> None:
        self.flaky, self.refused, self.broken, self.slow = (
            _push(maker, name, number)
            for number, name in enumerate(("flaky", "refused", "broken", "slow"), _GOOD)
        )
        manifest = maker.manifest(_REPOSITORY, self.broken)
        assert manifest is not None, "it was pushed"
        self._answers = {
            self.refused: Answer(403, b'{"errors": [{"code": "DENIED", "message": "not for you"}]}'),
            maker.push_blob(_REPOSITORY, _own_layer("broken")): Answer(
                404, b'{"errors": [{"code": "BLOB_UNKNOWN"}]}'
            ),
        }
        self._has_failed = threading.Event()
        self.is_asked_for_slow, self.end = threading.Event(), threading.Event()

    def __call__(self, method: str, path: str) -> Answer | None:
        """Answer a request for one of them."""
        name = path.rpartition("/")[2]
        if name == self.flaky and not self._has_failed.is_set():
            self._has_failed.set()
            return Answer(503)
        if name == self.slow and method in {"GET", "HEAD"}:
            self.is_asked_for_slow.set()
            self.end.wait(_HANG_SECONDS)
        return self._answers.get(name)


class Runs:
    """The runs, in two parts: some wait for their workers already when these start.

    Args:
        fleet: Carries them out.

    Attributes:
        tasks: What Flower has to show of them.
    """

    def __init__(self, fleet: WatchedFleet) -> None:
        self._fleet, self._shell = fleet, fleet.shell
        self._good = [_push(fleet.maker, f"stage {number}", number) for number in range(_GOOD)]
        self._trouble = fleet.front.rule = _SourceTrouble(fleet.maker)
        self.tasks: list[ShownTask] = []
        self._submitted: list[str] = []

    @property
    def states(self) -> dict[str, str]:
        """How each run ended, by its id, the newest first."""
        lines = self._shell.run("stagefleet runs list --json").splitlines()
        return {run["run"]: run["state"] for run in map(json.loads, lines)}

    def submit(self) -> None:
        """Start two copies of the same stage, before anybody works: the later one finds it there."""
        for stages in (self._good, self._good[:1]):
            self._submitted.append(
                self._shell.run(f"stagefleet copy $SRC $DST {' '.join(stages)} --detach").strip()
            )

    @property
    def waiting(self) -> int:
        """How many messages wait before workers start: one a run, as nobody has said how much it takes."""
        return len(self._submitted)

    def follow(self) -> None:
        """See those through, and others that succeed, are tried again, fail and are cancelled."""
        for number, run_id in enumerate(self._submitted):
            self._note(
                "copy_stage", self._fleet.follow(f"submitted-{number}", f"stagefleet runs watch {run_id}")
            )
        trouble = self._trouble
        self._note(
            "copy_stage", self._fleet.follow("flaky", f"stagefleet copy $SRC $DST {trouble.flaky}"), "503"
        )
        failing = f"stagefleet copy $SRC $DST {trouble.refused} {trouble.broken}"
        self._note("copy_stage", self._fleet.follow("failing", failing, status=1))
        self._note("delete_stage", self._fleet.follow("deleted", f"stagefleet delete $DST {self._good[-1]}"))
        self._cancel_slow()

    def _cancel_slow(self) -> None:
        run_id = self._shell.run(f"stagefleet copy $SRC $DST {self._trouble.slow} --detach").strip()
        is_under_way = self._trouble.is_asked_for_slow.wait(_HANG_SECONDS)
        ensure("a worker copies the slow stage", *([] if is_under_way else ["it does not ask for it"]))
        self._shell.run(f"stagefleet runs cancel {run_id} --now")
        self._note("copy_stage", self._fleet.follow("slow", f"stagefleet runs watch {run_id}", status=3))
        self._trouble.end.set()
        tell(f"{len(self.tasks)} tasks, which ended in every way that there is.")

    def _note(self, operation: str, outcomes: Iterable[Mapping[str, Any]], retried_for: str = "") -> None:
        for outcome in outcomes:
            run, stage, state = outcome["run"], outcome["item"], outcome["state"]
            self.tasks += [ShownTask(run, stage, operation, "RETRY", retried_for)] * (outcome["attempts"] - 1)
            told = (
                outcome["error"]["type"] if outcome["error"] else "" if state == "cancelled" else f"{state}:"
            )
            self.tasks.append(ShownTask(run, stage, operation, _STATES[state], told))


def _own_layer(name: str) -> bytes:
    return archive_of({"name": name.encode()})


def _push(maker: ImageMaker, name: str, number: int) -> str:
    """Push a stage; returns its id."""
    stage_id = stage_id_of(name, _FIRST_MS + number)
    maker.push_image(_REPOSITORY, stage_id, layers=[_SHARED_LAYER, _own_layer(name)])
    return stage_id
