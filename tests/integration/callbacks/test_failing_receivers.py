"""Receivers that take their time, and queues that nothing can be put into, with real workers."""

import threading

from stagefleet.runs.messages import queue_key
from stagefleet.runs.models import Callback, RunState
from stagefleet.settings import Settings
from tests.integration.workers.conftest import eventually

_LONGER_THAN_A_LEASE_SECONDS = 4.5
"""The fixtures' runs have leases of 3 s."""


def test_a_receiver_that_takes_longer_than_a_lease_is_called_once(fleet, receiver, start_workers, submit):
    """R10: the claim's lease is renewed while a call lasts: nobody calls beside it, and the run goes on."""
    start_workers(timeout_seconds=30)
    never = threading.Event()
    receiver.on_call = lambda call: call.path == "/outcome" and never.wait(_LONGER_THAN_A_LEASE_SECONDS)
    run = submit(1)
    calls = receiver.wait_for(lambda calls: any(call.path == "/finish" for call in calls))
    assert ["/outcome", "/finish"] == [call.path for call in calls]
    assert RunState.SUCCEEDED is fleet.ledger.run(run).state


def test_a_receiver_that_never_answers_is_given_up(fleet, receiver, start_workers, submit):
    """R10: to be slow is to fail: it counts, pauses, and ends with the time that the settings give."""
    start_workers(timeout_seconds=0.5, give_up_seconds=1.5)
    over = threading.Event()
    receiver.on_call = lambda _: over.wait(60)
    run = submit(1, finish_url="")
    ended = eventually(lambda: fleet.ledger.run(run).error, "the run is given up")
    over.set()
    assert "CallbackLostError" == ended.type
    assert "does not answer in time" in ended.message
    assert RunState.CANCELLED is fleet.ledger.run(run).state


def test_a_queue_that_is_one_of_kombus_own_keys_ends_its_run_alone(
    fleet, redis_server, receiver, start_workers, submit, workers
):
    """R10: an order of an older release that names such a queue fails, pauses and is given up, alone."""
    start_workers(give_up_seconds=1)
    pids = set(workers.pids)
    target = {"callback": Callback.TASK, "callback_target": "acme.note@unacked_mutex"}
    run, other = submit(2, **target, finish_url=""), submit(2)
    ended = eventually(lambda: fleet.ledger.run(run).error, "the run is given up")
    assert "CallbackLostError" == ended.type
    assert "Celery needs itself" in ended.message
    with redis_server.client() as client:
        assert b"list" != client.type(queue_key(Settings().key_prefix, "unacked_mutex"))
    receiver.wait_for(lambda calls: any(call.path == "/finish" for call in calls))
    assert RunState.SUCCEEDED is fleet.ledger.run(other).state
    assert pids == set(workers.pids)
