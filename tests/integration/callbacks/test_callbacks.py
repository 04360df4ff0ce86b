"""Runs that nobody watches: the fleet calls, whatever happens to workers and receivers."""

import base64
import json
import os
import signal
import threading
from collections import Counter
from urllib.parse import urlsplit

from stagefleet.redis_client import connect_redis
from stagefleet.runs.messages import queue_key
from stagefleet.runs.models import Callback
from tests.integration.workers.conftest import eventually
from tests.services.receiver import Call

COUNT = 20
ITEMS = {f"item-{number}" for number in range(COUNT)}


def ended(calls):
    return any(call.path == "/finish" and call.answer == 200 for call in calls)


def test_each_outcome_and_the_end_are_told_once_and_signed(start_workers, submit, receiver):
    start_workers()
    run = submit(COUNT)
    calls = receiver.wait_for(ended)
    outcomes = receiver.to("/outcome")
    assert ITEMS == {call.item for call in outcomes}
    assert COUNT == len(outcomes) == len({call.webhook_id for call in calls}) - 1
    assert all(call.is_signed for call in calls)
    assert {"stagefleet.outcome"} == {call.message["type"] for call in outcomes}
    told = outcomes[0].message["data"]
    assert (run, "wait", "succeeded") == (told["run"], told["operation"], told["outcome"]["state"])
    end = calls[-1].message["data"]
    assert ("succeeded", COUNT, None) == (end["summary"]["state"], end["summary"]["succeeded"], end["error"])


def test_a_receiver_that_fails_is_called_again_until_it_does_not(start_workers, submit, receiver, fleet):
    receiver.answers.extend([200, 500, 503, 302, 200])
    start_workers()
    run = submit(COUNT)
    receiver.wait_for(ended)
    outcomes = receiver.to("/outcome")
    accepted = Counter(call.item for call in outcomes if call.answer == 200)
    assert dict.fromkeys(ITEMS, 1) == accepted, "none is told again that was accepted"
    refused = {call.webhook_id for call in outcomes if call.answer != 200}
    assert 1 == len(refused), "the repeats of a call have its id"
    assert "succeeded" == fleet.ledger.run(run).state


def test_nothing_runs_ahead_of_a_receiver_that_hangs(start_workers, submit, receiver, fleet):
    may_go_on = threading.Event()
    receiver.on_call = lambda _call: may_go_on.wait(60)
    start_workers()
    run = submit(COUNT)
    receiver.wait_for(lambda calls: len(calls) >= 2)
    stands = fleet.ledger.run(run)
    assert 4 >= stands.succeeded
    may_go_on.set()
    receiver.wait_for(ended)
    assert ITEMS == {call.item for call in receiver.to("/outcome")}


def test_410_cancels_the_run_and_its_end_is_told(start_workers, submit, receiver, wait_for_end):
    receiver.answers.extend([200, 410])
    start_workers()
    run = wait_for_end(submit(COUNT))
    assert "cancelled" == run.state
    assert run.error is not None
    assert "CallbackDeclinedError" == run.error.type
    assert run.succeeded <= 1 + 4
    calls = receiver.wait_for(ended)
    assert 2 == len(receiver.to("/outcome"))
    assert "CallbackDeclinedError" == calls[-1].message["data"]["error"]["type"]


def test_a_receiver_that_stays_away_loses_its_run(start_workers, submit, receiver, wait_for_end):
    receiver.answers.extend([503] * 200)
    start_workers(give_up_seconds=0.5)
    run = wait_for_end(submit(COUNT, finish_url=""))
    assert "cancelled" == run.state
    assert run.error is not None
    assert "CallbackLostError" == run.error.type
    assert f"the webhook at {urlsplit(receiver.url).netloc} answered 503" in run.error.message


def test_a_worker_killed_between_callback_and_commit_is_followed_by_another(start_workers, submit, receiver):
    killed: list[Call] = []

    def kill_once(call):
        if call.path == "/outcome" and len(receiver.to("/outcome")) == 8 and not killed:
            killed.append(call)
            os.kill(started.pids[0], signal.SIGKILL)

    receiver.on_call = kill_once
    started = start_workers()
    submit(COUNT)
    receiver.wait_for(ended)
    outcomes = receiver.to("/outcome")
    assert ITEMS == {call.item for call in outcomes}
    again = Counter(call.webhook_id for call in outcomes if call.item == killed[0].item)
    assert {killed[0].webhook_id: 2} == again, "it was told, and not committed"
    assert COUNT + 1 == len(outcomes), "and nothing else was told twice"


def test_a_task_is_published_for_each_outcome(start_workers, submit, receiver, redis_server, settings):
    start_workers()
    run = submit(COUNT, callback=Callback.TASK, callback_target="acme.note_outcome@acme")
    receiver.wait_for(ended)
    redis = connect_redis(redis_server.url)
    messages = [json.loads(raw) for raw in redis.lrange(queue_key(settings.key_prefix, "acme"), 0, -1)]
    redis.close()
    bodies = [json.loads(base64.b64decode(message["body"])) for message in messages]
    assert {"acme.note_outcome"} == {message["headers"]["task"] for message in messages}
    assert COUNT == len({message["headers"]["id"] for message in messages}) == len(messages)
    assert {run} == {arguments["run"] for _, arguments, _ in bodies}
    assert ITEMS == {arguments["outcome"]["item"] for _, arguments, _ in bodies}


def test_no_log_tells_the_secret_or_the_url(start_workers, submit, receiver, wait_for_end):
    receiver.answers.extend([500, 410])
    started = start_workers()
    wait_for_end(submit(2, callback_target=f"{receiver.url}/outcome?token=hunter2"))
    receiver.wait_for(ended)
    logged = started.log.read_text()
    eventually(lambda: "answered 500" in started.log.read_text(), "the failure is logged")
    assert "hunter2" not in logged
    assert "whsec_" not in logged
