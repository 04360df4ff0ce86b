"""How many functions of ours a request of a copy passes: each one is a stop for whoever reads a traceback."""

from __future__ import annotations

import sys
from functools import partial
from traceback import walk_stack

from stagefleet.attempt import ItemLeaseRenewer
from stagefleet.names import Repository, StageId
from stagefleet.registry.http.transport import Transport
from stagefleet.runs.models import RunSpec
from stagefleet.settings import RunSettings
from stagefleet.testing import MemoryLedger
from tasks.copy import copy_stage
from tasks.item import ItemExecutor, ItemTask
from tests.services.images import push_image

STAGE = StageId("ab" * 28, 1_700_000_000_000)
MOST_HOPS = 12


def hops_here():
    """The functions of ours on the stack, from the task down to the caller's caller."""
    stack = [frame for frame, _ in walk_stack(sys._getframe(2))]
    modules = [frame.f_globals.get("__name__", "") for frame in stack]
    return [
        f"{module}.{frame.f_code.co_qualname}"
        for module, frame in reversed(list(zip(modules, stack, strict=True)))
        if module.partition(".")[0] in {"stagefleet", "tasks"}
    ]


def test_from_the_task_to_the_request_there_are_few_hops(stage_tasks, registry, monkeypatch):
    push_image(registry.host, "src/app", str(STAGE))
    source, destination = (Repository(registry.host, f"{name}/app") for name in ("src", "dst"))
    seen, send = [], Transport.send

    def note(transport, method, url, *arguments, **options):
        if method == "PUT" and "/manifests/" in url:
            seen.append(hops_here())
        return send(transport, method, url, *arguments, **options)

    monkeypatch.setattr(Transport, "send", note)
    settings = RunSettings()
    ledger = MemoryLedger(settings)
    options = {"source": str(source), "destination": str(destination)}
    submission = ledger.open(RunSpec(operation="copy_stage", options=options, parallel=1))
    ledger.append(submission, [str(STAGE)])
    ledger.start(submission)
    executor = ItemExecutor(ledger, ItemLeaseRenewer(ledger, settings), settings, worker="w")
    task = ItemTask("stagefleet.copy_stage", partial(copy_stage, stage_tasks.storages), executor)
    assert task.run(run=submission.run_id, index=0).startswith("succeeded")
    (hops,) = seen
    assert "tasks.item.ItemTask.run" == hops[0]
    assert len(hops) <= MOST_HOPS, "\n".join(hops)
