"""Fetches that tell of themselves, started by a command and on request."""

import pytest

from config.celery import make_app
from stagefleet.fleet.fleet import Fleet
from stagefleet.runs.models import RunState
from stagefleet.settings import EngineSettings, Settings
from tasks.runs import StartRunTask
from tests.services.receiver import WebhookReceiver


@pytest.fixture
def receiver():
    with WebhookReceiver() as receiver:
        yield receiver


@pytest.fixture
def start_run(redis_server):
    """Starts runs as a worker on no host in particular does it."""
    settings = Settings(redis_url=redis_server.url, engine=EngineSettings(host="three"))
    app = make_app(settings)
    return app.register_task(StartRunTask(lambda: Fleet.connect(settings=settings)))


def ended(calls):
    return any(call.path == "/finish" for call in calls)


def hosts_told(receiver):
    return sorted(call.message["data"]["outcome"]["host"] for call in receiver.to("/outcome"))


def test_a_fetch_tells_each_outcome_with_its_host(start_command, engines, registry, push, receiver):
    image = push("a")
    told = ("--on-outcome-url", f"{receiver.url}/outcome", "--on-finish-url", f"{receiver.url}/finish")
    fetch = start_command("fetch", f"{registry.host}/stages/app", image.tag, "--all-hosts", "--detach", *told)
    out, err = fetch.communicate(timeout=60)
    assert (0, "") == (fetch.returncode, err)
    calls = receiver.wait_for(ended)
    assert out.strip() == calls[-1].message["data"]["run"]
    assert ["one", "two"] == hosts_told(receiver)
    assert all(call.is_signed for call in calls)


def test_a_fetch_on_request_goes_to_the_hosts_that_it_names(
    start_run, fleet, engines, registry, push, receiver
):
    image = push("a")
    start_run(
        operation="fetch",
        primary=f"{registry.host}/stages/app",
        stage_ids=[image.tag],
        hosts=["two"],
        idempotency_key=f"fetch {image.tag}",
        on_outcome_url=f"{receiver.url}/outcome",
        on_finish_url=f"{receiver.url}/finish",
    )
    receiver.wait_for(ended)
    assert ["two"] == hosts_told(receiver)
    assert RunState.SUCCEEDED is fleet.run_under(f"fetch {image.tag}").state
    assert [f"{registry.host}/stages/app:{image.tag}"] == engines["two"].tags()
