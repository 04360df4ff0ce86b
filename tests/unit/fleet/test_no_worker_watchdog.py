from __future__ import annotations

import pytest

from stagefleet.errors import NoWorkerError, RedisUnreachableError
from stagefleet.fleet.waits import NoWorkerWatchdog, queues_of_run
from stagefleet.runs.models import Callback, Run, RunSpec, RunState, WorkerInfo
from stagefleet.runs.versions import WriterVersion, own_version
from stagefleet.settings import RunSettings

ORDER = RunSpec(operation="copy_stage")
NOTICE = "no worker listens to the queue 'copy': start one (giving up after 60 s)"


class HeartbeatLedger:
    def __init__(self):
        self.present = []
        self.outage = None

    def workers(self, queue=None):
        if self.outage is not None:
            raise self.outage
        return [worker for worker in self.present if queue is None or queue in worker.queues]

    def beat(self, worker, *, seconds, counts=()):
        raise NotImplementedError

    def lead(self, role, holder, *, seconds):
        raise NotImplementedError

    def ping(self):
        raise NotImplementedError


class Watch:
    """A vigil that looks each second, and what it said, with the second."""

    def __init__(self, order=ORDER, **options):
        self.now = 0.0
        self.said: list[tuple[float, str]] = []
        self.heartbeats = HeartbeatLedger()
        self.watchdog = NoWorkerWatchdog(
            self.heartbeats,
            order,
            RunSettings(),
            lambda line: self.said.append((self.now, line)),
            advice="start one",
            clock=lambda: self.now,
            **options,
        )

    def look_until(self, second, run=lambda _: None):
        while self.now < second:
            self.now += 1
            self.watchdog.check(run(self.now))


@pytest.fixture
def watch():
    return Watch()


def standing(now, **fields):
    return Run("r", ORDER, RunState.RUNNING, now_at=now, **fields)


def test_nobody_is_said_once_after_ten_seconds_and_given_up_after_sixty(watch):
    watch.look_until(59)
    assert [(10, NOTICE)] == watch.said
    with pytest.raises(NoWorkerError, match="60 s, so the run is cancelled: start one"):
        watch.look_until(60)


def test_the_count_begins_anew_when_a_worker_was_there(watch):
    watch.look_until(58)
    watch.heartbeats.present = [WorkerInfo("host:1", 8, ("copy",))]
    watch.look_until(59)
    watch.heartbeats.present = []
    watch.look_until(118)
    assert [10, 69] == [second for second, _ in watch.said]
    with pytest.raises(NoWorkerError):
        watch.look_until(119)


def test_a_paused_run_is_not_given_up_and_the_count_begins_with_its_resume(watch):
    watch.look_until(500, lambda now: Run("r", ORDER, RunState.PAUSED, now_at=now))
    assert [] == watch.said
    watch.look_until(559, standing)
    assert [(510, NOTICE)] == watch.said
    with pytest.raises(NoWorkerError):
        watch.look_until(560, standing)


def test_a_worker_of_another_queue_is_no_help(watch):
    watch.heartbeats.present = [WorkerInfo("host:1", 8, ("delete",))]
    with pytest.raises(NoWorkerError, match="'copy'"):
        watch.look_until(60)


@pytest.mark.parametrize(
    ("operation", "hosts", "queues"),
    [
        ("copy_stage", ["h"], ("host.h",)),
        ("delete_stage", ["h", "i"], ("host.h", "host.i")),
        ("fetch_stage", ["h"], ("host.h",)),
        ("copy_stage", [], ("copy",)),
        ("copy_stage", None, ("copy",)),
        ("rm_record", None, ("records",)),
    ],
)
def test_a_run_is_judged_by_the_queues_that_its_items_go_to(operation, hosts, queues):
    """R14: the worker of a host works on what goes to its engine, whatever the operation's own queue."""
    spec = RunSpec(operation=operation, options={} if hosts is None else {"hosts": hosts})
    assert queues == queues_of_run(spec)
    watch = Watch(spec)
    watch.heartbeats.present = [WorkerInfo("host:1", 8, ("fetch", queues[-1]))]
    watch.look_until(100)
    assert [] == watch.said
    watch.heartbeats.present = [WorkerInfo("host:1", 8, ("callbacks",))]
    with pytest.raises(NoWorkerError, match=f"the queues? .*{queues[0]}"):
        watch.look_until(200)


def test_of_many_hosts_some_are_named():
    watch = Watch(RunSpec(operation="fetch_stage", options={"hosts": list("abcdef")}))
    watch.look_until(10)
    assert ["no worker listens to any of the queues 'host.a', 'host.b', 'host.c' and 3 more: start one"] == [
        line.partition(" (")[0] for _, line in watch.said
    ]


def test_a_run_whose_outcomes_nobody_calls_back_for_is_alone():
    """R14: workers that are set aside without `coordinate` leave a run with its window full for ever."""
    spec = RunSpec(operation="copy_stage", callback=Callback.WEBHOOK, callback_target="https://ci.test/")
    watch = Watch(spec)
    watch.heartbeats.present = [WorkerInfo("host:1", 8, ("copy",))]
    watch.look_until(100, lambda now: standing(now, waiting=1))
    watch.look_until(200, lambda now: standing(now, published=1))
    assert [] == watch.said
    watch.look_until(210, lambda now: standing(now, succeeded=4))
    assert [] == watch.said, "an outcome a moment ago"
    watch.look_until(220, lambda now: standing(now, succeeded=4))
    assert ["no worker listens to the queue 'coordinate'"] == [
        line.partition(":")[0] for _, line in watch.said
    ]
    watch.heartbeats.present.append(WorkerInfo("host:2", 8, ("coordinate",)))
    watch.look_until(400, lambda now: standing(now, succeeded=4))
    assert 1 == len(watch.said)


def test_outcomes_begin_the_count_anew(watch):
    """R14: a run whose outcomes come is worked on, and one quiet second after them is not the sixtieth."""
    for second in range(100):
        watch.now = second
        watch.watchdog.note_progress()
    watch.look_until(108)
    assert [] == watch.said
    watch.look_until(158)
    assert [(109, NOTICE)] == watch.said
    with pytest.raises(NoWorkerError):
        watch.look_until(159)


def test_a_held_item_is_worked_on_whether_or_not_its_worker_is_seen(watch):
    """R14: a worker that is busy, or whose heartbeats are late, has a lease."""
    watch.look_until(200, lambda now: standing(now, claimed=1, leased_until=now + 10))
    assert [] == watch.said
    with pytest.raises(NoWorkerError):
        watch.look_until(400, lambda now: standing(now, claimed=1, leased_until=200))


@pytest.mark.parametrize("field", ["claimed", "published", "waiting", "succeeded", "bytes"])
def test_whatever_changes_in_a_run_somebody_works_on_it(watch, field):
    """R14: a claim that was there between two looks resets the clock, also where its item waits again."""
    watch.look_until(200, lambda now: standing(now, **{field: int(now / 9)}))
    assert [] == watch.said


def test_the_warning_always_precedes_the_end(watch):
    """R14: whoever was not warned is not given up, however long the looks were apart."""
    for second in (1, 8, 17, 26, 35):
        watch.now = second
        watch.watchdog.check()
    assert [(17, NOTICE)] == watch.said
    watch.look_until(66)
    with pytest.raises(NoWorkerError):
        watch.look_until(67)


def test_nothing_is_known_of_the_time_in_which_nobody_looked(watch):
    """R14: after an outage of Redis workers have the time that they need to be seen again."""
    watch.look_until(9)
    watch.now = 90.0
    watch.watchdog.check()
    watch.look_until(99)
    assert [] == watch.said


def test_an_outage_is_no_absence(watch):
    watch.heartbeats.outage = RedisUnreachableError("away")
    watch.look_until(600)
    watch.heartbeats.outage = None
    watch.look_until(609)
    assert [] == watch.said


def test_a_command_that_started_its_own_worker_says_so_and_waits_longer():
    """R14, O-A13: a slow start of an embedded worker is no alarm, and its end would be seen."""
    watch = Watch(starts_worker=True)
    watch.look_until(299)
    assert [(10, "the worker that this command has started is not ready yet")] == watch.said
    with pytest.raises(NoWorkerError):
        watch.look_until(300)


@pytest.mark.parametrize("version", [WriterVersion(), WriterVersion("9.9.9", "9.0")])
def test_workers_that_cannot_be_worked_with_are_no_help_and_named(watch, version):
    """O-A2: a worker that knows no version, or another major one, is told and does not count."""
    watch.heartbeats.present = [WorkerInfo("host:1", 8, ("copy",), version=version)]
    watch.look_until(59)
    ((_, notice),) = watch.said
    assert str(version) in notice
    assert str(own_version()) in notice
    with pytest.raises(NoWorkerError, match="can work with"):
        watch.look_until(60)
