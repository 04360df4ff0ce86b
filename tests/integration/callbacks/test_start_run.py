"""Runs started through Flower's API, as an orchestrator without Python does it."""

from typing import cast

import pytest
import requests

from config.celery import make_app
from stagefleet.errors import RepositoryNotFoundError, RunNotFoundError, UsageError
from stagefleet.fleet.fleet import Fleet
from stagefleet.settings import Settings
from tasks.runs import StartRunTask
from tests.integration.workers.conftest import eventually
from tests.integration.workers.test_flower import start_flower
from tests.services.images import ImageMaker, push_stages

LOGIN = ("me", "hunter2")
STAGE = f"{1:056x}-1700000000001"


@pytest.fixture
def client(stand):
    with Fleet.connect(stand.redis.url) as client:
        yield client


@pytest.fixture(scope="module")
def flower(stand, tmp_path_factory):
    with start_flower(stand.redis.url, tmp_path_factory.mktemp("flower")) as address:
        yield address


@pytest.fixture
def post(flower):
    """Posts arguments to the task; gives the task's id."""

    def post(login=LOGIN, **arguments):
        url = f"{flower}/api/task/async-apply/stagefleet.start_run"
        answer = requests.post(url, json={"kwargs": arguments}, auth=login, timeout=10)
        answer.raise_for_status()
        return answer.json()["task-id"]

    return post


def run_under(client, key):
    def look():
        try:
            return client.run_under(key)
        except RunNotFoundError:
            return None

    return eventually(look, f"a run under {key}")


def test_a_copy_is_started_found_by_its_key_and_told_of(post, client, registry, receiver):
    stages = {pushed.tag for pushed in push_stages(registry, "app/stages", 3)}
    arguments = {
        "operation": "copy",
        "source": f"{registry.host}/app/stages",
        "destination": f"{registry.host}/app/copy",
        "parallel": 2,
        "idempotency_key": "nightly",
        "on_outcome_url": f"{receiver.url}/outcome",
        "on_finish_url": f"{receiver.url}/finish",
    }
    post(**arguments)
    calls = receiver.wait_for(lambda calls: any(call.path == "/finish" for call in calls))
    assert stages == {call.item for call in receiver.to("/outcome")}
    assert all(call.is_signed for call in calls)
    run = client.run_under("nightly")
    assert ("succeeded", 3, 2) == (run.state, run.succeeded, run.spec.parallel)
    assert run.id == calls[-1].message["data"]["run"]


def test_without_a_key_the_task_s_id_is_the_key(post, client, registry):
    (pushed,) = push_stages(registry, "app/stages", 1)
    task = post(operation="delete", repository=f"{registry.host}/app/stages", stage_ids=[pushed.tag])
    run = client.wait(run_under(client, task).id)
    assert ("succeeded", 1) == (run.state, run.succeeded)


def test_a_publication_and_a_removal_of_records_are_started_and_told_of(post, client, registry, receiver):
    (pushed,) = push_stages(registry, "app/stages", 1)
    repository = f"{registry.host}/app/stages"
    client.records.add_custom_tag(repository, "latest", pushed.tag)
    told = {"on_outcome_url": f"{receiver.url}/outcome", "on_finish_url": f"{receiver.url}/finish"}
    post(operation="publish", primary=repository, final=f"{registry.host}/app/final", **told)
    (published,) = receiver.wait_for(lambda _: receiver.to("/finish"))[-1:]
    assert ("publish_stage", 1) == (
        published.message["data"]["operation"],
        published.message["data"]["summary"]["succeeded"],
    )
    post(operation="remove_records", repository=repository, kind="custom-tag", ids=["latest"], **told)
    receiver.wait_for(lambda _: len(receiver.to("/finish")) == 2)
    assert [pushed.tag, "latest"] == [call.item for call in receiver.to("/outcome")]
    with ImageMaker(registry) as maker:
        assert [pushed.tag] == maker.tags("app/stages") == maker.tags("app/final")


def test_descriptions_are_told_as_results(post, client, registry, receiver):
    (pushed,) = push_stages(registry, "app/stages", 1)
    repository = f"{registry.host}/app/stages"
    task = post(operation="describe", primary=repository, on_outcome_url=f"{receiver.url}/outcome")
    (call, *_) = receiver.wait_for(lambda calls: calls)
    assert f"{repository}@{pushed.digest}" == call.message["data"]["outcome"]["result"]["repo_digest"]
    assert "describe_stage" == run_under(client, task).spec.operation


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"operation": "burn"}, "operation"),
        ({"operation": ["copy"]}, "operation"),
        ({"operation": "purge", "project": "app", "yes": True}, "operation"),
        ({"operation": "fetch", "primary": "a.test/app", "stage_ids": ["x"], "final": "b.test/app"}, "final"),
        ({"operation": "publish", "primary": "A B"}, "primary"),
        ({"operation": "describe", "primary": "a.test/app", "hosts": ["one"]}, "hosts"),
        ({"operation": "remove_records", "repository": "a.test/app", "kind": "tag", "ids": ["a"]}, "kind"),
        ({"operation": "remove_records", "repository": "a.test/app", "kind": "custom-tag"}, "ids"),
        (
            {
                "operation": "remove_records",
                "repository": "a.test/app",
                "kind": "managed-image",
                "ids": ["a"],
                "final": "b.test/app",
            },
            "final",
        ),
        ({"operation": "copy", "source": "a.test/app"}, "destination"),
        ({"operation": "copy", "source": "a.test/app", "destination": "b.test/app", "sauce": 1}, "sauce"),
        ({"operation": "delete", "repository": "a.test/app"}, "stage_ids"),
        (
            {
                "operation": "copy",
                "source": "a.test/app",
                "destination": "b.test/app",
                "on_outcome_url": "ftp://ci.test",
            },
            "outcome URL",
        ),
        (
            {
                "operation": "copy",
                "source": "a.test/app",
                "destination": "b.test/app",
                "on_outcome_task": "acme.note@_kombu.binding.copy",
            },
            "Celery needs itself",
        ),
    ],
)
def test_wrong_arguments_are_refused_by_name(arguments, name):
    app = make_app(Settings(redis_url="redis://localhost:1/0"))
    task = app.register_task(StartRunTask(lambda: cast(Fleet, _NoFleet())))
    with pytest.raises(UsageError, match=name):
        task(**arguments)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"operation": "fetch", "primary": "a.test/app", "stage_ids": [STAGE]}, "hosts"),
        ({"operation": "delete", "repository": "docker-daemon:app", "stage_ids": [STAGE]}, "hosts"),
        ({"operation": "publish", "primary": "docker-daemon:app", "final": "a.test/app"}, "hosts"),
        ({"operation": "describe", "primary": "docker-daemon:app", "stage_ids": [STAGE]}, "hosts"),
        ({"operation": "describe"}, "project"),
        ({"operation": "publish", "final": "a.test/app"}, "project"),
        ({"operation": "publish", "project": "app", "primary": "a.test/app"}, "project"),
    ],
)
def test_no_worker_takes_a_request_to_be_for_its_own_host_or_for_no_project(arguments, name):
    settings = Settings(redis_url="redis://localhost:1/0")
    app = make_app(settings)
    task = app.register_task(StartRunTask(lambda: Fleet.connect(settings=settings)))
    with pytest.raises(UsageError, match=f"^{name}: "):
        task(**arguments)


def test_what_is_refused_is_logged_and_starts_nothing(post, client, stand):
    task = post(operation="copy", source="a.test/app")
    eventually(lambda: "run_not_started" in stand.workers.logged(), "the refusal is logged")
    assert "destination: copy needs it" in stand.workers.logged()
    with pytest.raises(RunNotFoundError):
        client.run_under(task)


def test_who_has_no_login_starts_nothing(post):
    with pytest.raises(requests.HTTPError, match="401"):
        post(login=("me", "guess"), operation="copy")


class _NoFleet:
    """What is refused needs no fleet: nothing of it may be used."""

    def __enter__(self):
        return None

    def __exit__(self, *_error):
        return None


def test_a_repository_that_does_not_exist_is_refused_unless_it_may_be_missing(redis_server, registry):
    """U2: a run on request is as strict as a command, and can be told otherwise."""
    app = make_app(Settings(redis_url=redis_server.url))
    task = app.register_task(StartRunTask(lambda: Fleet.connect(redis_server.url)))
    typo = f"{registry.host}/typo"
    copy = {"operation": "copy", "source": typo, "destination": f"{registry.host}/new"}
    for arguments in (
        copy,
        {"operation": "delete", "repository": typo, "stage_ids": [STAGE]},
        {"operation": "describe", "primary": typo},
        {"operation": "publish", "primary": typo, "final": f"{registry.host}/new"},
    ):
        with pytest.raises(RepositoryNotFoundError, match=typo):
            task(**arguments, idempotency_key=f"strict {arguments['operation']}")
    with Fleet.connect(redis_server.url) as client:
        refused = run_under(client, "strict copy")
        assert refused.error is not None
        assert ("failed", "RepositoryNotFoundError") == (refused.state, refused.error.type)
        with pytest.raises(UsageError, match="never planned"):
            client.retry(refused.id)
        task(**copy, missing_ok=True, idempotency_key="strict copy")  # what was refused has used no key
        assert ("succeeded", 0) == ((run := run_under(client, "strict copy")).state, run.total)
