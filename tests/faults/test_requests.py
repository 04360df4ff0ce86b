"""Workers that are killed while they plan the run that somebody asked for."""

import threading
from types import SimpleNamespace

import pytest

from config.celery import make_app
from stagefleet.errors import RunNotFoundError
from stagefleet.fleet.fleet import Fleet
from stagefleet.runs.messages import queue_key, queue_of, task_name
from stagefleet.runs.models import RunState
from stagefleet.settings import HttpSettings, RunSettings, Settings
from tests.integration.workers.conftest import eventually
from tests.services import ImageMaker, setting_variables
from tests.services.front import Answer
from tests.services.images import push_stages

COUNT = 5


@pytest.fixture
def redis_server(make_redis):
    return make_redis()


@pytest.fixture
def settings(redis_server):
    """Short leases: what is lost comes back within seconds."""
    runs = RunSettings(
        lease_seconds=3, renewal_seconds=1, sweep_seconds=0.5, republish_seconds=2, max_attempts=3
    )
    http = HttpSettings(connect_timeout_seconds=0.5, write_timeout_seconds=1)  # a write ends within the lease
    return Settings(redis_url=redis_server.url, runs=runs, http=http)


@pytest.fixture
def client(redis_server, settings):
    with Fleet.connect(redis_server.url, settings=settings) as client:
        yield client


@pytest.fixture
def start_worker(make_workers, redis_server, settings):
    def start(**options):
        return make_workers(
            redis_server.url, environment=setting_variables(settings, "runs", "http"), **options
        )

    return start


@pytest.fixture
def front(registry, make_front, cleanup):
    """A front before the registry that lists tags, which a plan asks for, only once `open` is set."""
    state = SimpleNamespace(open=threading.Event(), lists=0)

    def rule(_method, path):
        if path.endswith("/tags/list"):
            state.lists += 1
            if not state.open.wait(60):
                return Answer(503)
        return None

    state.host = make_front(registry.host, rule).host
    cleanup.callback(state.open.set)
    return state


@pytest.fixture
def request_copy(settings, front):
    """Ask for a copy as any Celery client does; returns the task's id, under which the run is found."""
    app = make_app(settings)

    def request(source, destination):
        named = {
            "operation": "copy",
            "source": f"{front.host}/{source}",
            "destination": f"{front.host}/{destination}",
        }
        return app.send_task(task_name("start_run"), kwargs=named, queue=queue_of("start_run")).id

    with app:
        yield request


def run_under(client, key):
    def look():
        try:
            return client.run_under(key)
        except RunNotFoundError:
            return None

    return eventually(look, f"a run under {key}")


def planning(client, front, key, lists):
    """The run under a key, whose plan waits for the registry's answer."""
    run = run_under(client, key)
    eventually(lambda: front.lists >= lists, "its plan lists the tags")
    assert RunState.SUBMITTING is client.run(run.id).state
    return run


def test_a_run_whose_worker_is_killed_while_it_plans_is_started_once_by_another(
    client, start_worker, front, request_copy, registry
):
    push_stages(registry, "app", COUNT)
    first = start_worker()
    task = request_copy("app", "mirror")
    run = planning(client, front, task, 1)
    first.kill()
    front.open.set()
    second = start_worker()

    ended = client.wait(run.id)

    assert ("succeeded", COUNT) == (ended.state, ended.succeeded)
    assert [run.id] == [found.id for found in client.runs()]
    with ImageMaker(registry) as images:
        assert COUNT == len(images.tags("mirror"))
    assert '"run_started"' not in first.logged()
    eventually(lambda: COUNT == second.logged().count('"item_succeeded"'), "each item is done once")


def test_a_plan_that_takes_longer_than_a_lease_is_made_once(
    client, start_worker, front, request_copy, registry, settings
):
    push_stages(registry, "app", COUNT)
    workers = start_worker(commands=2)
    run = planning(client, front, request_copy("app", "mirror"), 1)
    lists = front.lists
    threading.Event().wait(2 * settings.runs.lease_seconds)
    assert lists == front.lists
    front.open.set()

    assert "succeeded" == client.wait(run.id).state
    eventually(lambda: COUNT == workers.logged().count('"item_succeeded"'), "each item is done once")


def test_a_run_that_kills_whoever_plans_it_fails_with_the_reason(
    client, start_worker, front, request_copy, registry, settings
):
    push_stages(registry, "app", COUNT)
    task = request_copy("app", "mirror")
    for number in range(settings.runs.max_attempts):
        lists = front.lists
        worker = start_worker()
        run = planning(client, front, task, lists + 1)
        worker.kill()
        assert RunState.SUBMITTING is client.run(run.id).state, number
    start_worker()

    ended = client.wait(run.id)

    assert RunState.FAILED is ended.state
    assert ended.error is not None
    assert ("WorkerLostError", True) == (ended.error.type, "in 3 attempts" in ended.error.message)


def test_a_request_for_which_no_thread_is_free_stays_in_its_queue(
    client, start_worker, front, request_copy, registry, settings, redis_server
):
    push_stages(registry, "app", COUNT)
    worker = start_worker(concurrency=1)
    runs = [planning(client, front, request_copy("app", "one"), 1)]
    later = request_copy("app", "two")
    threading.Event().wait(1)
    assert 1 == redis_server.client().llen(queue_key(settings.key_prefix, "coordinate"))
    worker.kill()
    front.open.set()
    start_worker()

    runs.append(run_under(client, later))
    assert ["succeeded", "succeeded"] == [client.wait(run.id).state for run in runs]
