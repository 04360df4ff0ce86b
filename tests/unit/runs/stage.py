"""A run that the fleet calls back for, and its coordinator, without workers, receivers and time."""

from __future__ import annotations

from stagefleet.runs.detached_coordinator import DetachedCoordinator
from stagefleet.runs.models import Callback, ItemState, Outcome, RunSpec
from stagefleet.setting_types import WebhookSettings
from stagefleet.testing import MemoryLedger

ITEMS = ["a", "b", "c"]
URL = "https://ci.test/outcome"
END = "https://ci.test/end"
GIVE_UP_SECONDS = 100


class Receiver:
    """Notes what it is told; raises what a test wants instead."""

    def __init__(self):
        self.told = []
        self.times = []
        self.errors = []
        self.pause = lambda: None

    def call(self, call, lease):
        self.pause()
        lease.check()
        if self.errors:
            raise self.errors.pop(0)
        self.times.append(call.at)
        is_outcome = call.kind == "stagefleet.outcome"
        self.told.append(call.data["outcome"]["item"] if is_outcome else call.data["summary"]["state"])
        assert call.url == (URL if is_outcome else END)
        assert call.id.startswith(call.data["run"])

    def publish(self, target, task_id, arguments):
        self.pause()
        if self.errors:
            raise self.errors.pop(0)
        assert target == "acme.note"
        assert task_id.startswith(arguments["run"])
        self.told.append(arguments["outcome"]["item"])


class Stage:
    """A ledger whose time a test moves, a run in it whose items have all succeeded, and its coordinator."""

    def __init__(self, callback=Callback.WEBHOOK, target=URL):
        self.now = 0.0
        self.is_stopping = False
        self.ledger = MemoryLedger(clock=lambda: self.now)
        self.receiver = Receiver()
        self.coordinator = DetachedCoordinator(
            self.ledger,
            lambda call, lease: self.receiver.call(call, lease),  # noqa: PLW0108 - a test replaces it
            self.receiver.publish,
            WebhookSettings(backoff_seconds=4, give_up_seconds=GIVE_UP_SECONDS),
            stopping=lambda: self.is_stopping,
            clock=lambda: self.now,
        )
        spec = RunSpec(operation="copy_stage", callback=callback, callback_target=target, finish_url=END)
        submission = self.ledger.open(spec)
        self.run_id = submission.run_id
        self.ledger.append(submission, ITEMS)
        self.ledger.start(submission)
        while self.calls < len(self.ledger.broker):
            message = self.ledger.broker.popleft()
            claim = self.ledger.claim(message.run_id, message.index, "host:1")
            if claim is None:
                self.ledger.broker.append(message)
            else:
                self.ledger.finish(claim, Outcome(item=claim.item, state=ItemState.SUCCEEDED))

    @property
    def calls(self):
        return sum(message.index < 0 for message in self.ledger.broker)

    @property
    def state(self):
        return self.ledger.run(self.run_id).state

    def deliver(self):
        """Deliver each message to a coordinator that waits now."""
        for _ in range(self.calls):
            self.ledger.broker.popleft()
            self.coordinator.coordinate(self.run_id)

    def wait(self, seconds):
        self.now += seconds

    def pass_time(self, seconds):
        self.wait(seconds)
        self.ledger.sweep()
        self.deliver()
