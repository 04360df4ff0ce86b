"""Who waits for a stage that others are at says so."""

from __future__ import annotations

from contextlib import contextmanager

from stagefleet.attempt import Attempt
from stagefleet.locks import MemoryLocks
from stagefleet.locks.stage_locks import StageLocks
from stagefleet.names import Repository, StageId
from stagefleet.settings import LockSettings

STAGE = StageId("a" * 56, 1700000000000)
REPOSITORY = Repository("r.test", "app")


class Lease:
    """Lets the other one go as soon as a wait is told."""

    def __init__(self, other):
        self.other = other
        self.told = []
        self.is_told = False

    def check(self):
        return

    def require(self, seconds):
        del seconds

    def note_bytes(self, moved, expected=0):
        pass

    def note_progress(self, seconds, text):
        pass

    def check_run(self):
        self.check()

    @contextmanager
    def waiting(self, seconds, host, text):
        self.told.append((seconds, host, text))
        self.is_told = True
        self.other.release()
        yield
        self.is_told = False


def test_a_wait_for_a_lock_is_told_with_who_has_it_and_how_long_it_may_last():
    """R7: whoever follows a run hears also of a stage that another run is at."""
    locks = MemoryLocks(LockSettings(wait_seconds=40))
    name = f"stage/{REPOSITORY}/{STAGE.digest}"
    lease = Lease(locks.acquire(name, label="ci-7:12, run r1"))
    with StageLocks(locks).lock_exclusively(
        REPOSITORY, STAGE, attempt=Attempt("r2", lease=lease)
    ) as stage_lock:
        assert stage_lock.has_waited
        assert not lease.is_told, "it has the stage now"
    assert [(40, "", f"the lock {name}, which ci-7:12, run r1 has")] == lease.told
    with StageLocks(locks).lock_exclusively(REPOSITORY, STAGE, attempt=Attempt("r3")) as stage_lock:
        assert not stage_lock.has_waited
    locks.close()
