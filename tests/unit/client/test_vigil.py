from __future__ import annotations

import pytest

from stagefleet.client.vigil import Vigil
from stagefleet.errors import NoWorkerError, RedisUnreachableError
from stagefleet.runs.model import Order, WorkerInfo
from stagefleet.settings import RunSettings


class Attendance:
    def __init__(self):
        self.present = []
        self.outage = None

    def workers(self, queue=None):
        if self.outage is not None:
            raise self.outage
        return [worker for worker in self.present if queue in worker.queues]

    def beat(self, worker, *, seconds):
        raise NotImplementedError


@pytest.fixture
def now():
    return [0.0]


@pytest.fixture
def said():
    return []


@pytest.fixture
def attendance():
    return Attendance()


@pytest.fixture
def vigil(now, said, attendance):
    order = Order(operation="copy_stage")
    return Vigil(attendance, order, RunSettings(), said.append, advice="start one", clock=lambda: now[0])


def look_at(vigil, now, seconds):
    now[0] = seconds
    vigil.look()


def test_nobody_is_said_once_after_ten_seconds_and_given_up_after_sixty(vigil, now, said):
    look_at(vigil, now, 9.9)
    assert [] == said
    for seconds in (10, 11, 59):
        look_at(vigil, now, seconds)
    assert ["no worker listens to the queue 'copy': start one (giving up after 60 s)"] == said
    with pytest.raises(NoWorkerError, match="60 s, so the run is cancelled: start one"):
        look_at(vigil, now, 60)


def test_the_count_begins_anew_when_a_worker_was_there(vigil, now, attendance):
    attendance.present = [WorkerInfo("host:1", 8, ("copy",))]
    look_at(vigil, now, 59)
    attendance.present = []
    look_at(vigil, now, 118)
    with pytest.raises(NoWorkerError):
        look_at(vigil, now, 120)


def test_a_worker_of_another_queue_is_no_help(vigil, now, attendance):
    attendance.present = [WorkerInfo("host:1", 8, ("delete",))]
    with pytest.raises(NoWorkerError, match="'copy'"):
        look_at(vigil, now, 60)


def test_an_outage_is_no_absence(vigil, attendance, now, said):
    attendance.outage = RedisUnreachableError("away")
    now[0] = 600.0
    vigil.look()
    attendance.outage = None
    now[0] = 609.0
    vigil.look()
    assert [] == said
