"""Commands whose runs call somebody back, also when the command has gone before its run has ended."""

import json
import subprocess
from collections import Counter

import pytest

from tests.services import clean_environment, stagefleet_command
from tests.services.images import push_stages


@pytest.fixture
def environment(stand, tmp_path):
    return clean_environment(
        HOME=str(tmp_path), DOCKER_CONFIG=str(tmp_path), STAGEFLEET_REDIS_URL=stand.redis.url
    )


@pytest.fixture
def shell_command(environment, tmp_path):
    """Runs a command in a process of its own."""

    def command(*arguments):
        return subprocess.run(
            stagefleet_command(*arguments),
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return command


@pytest.fixture
def command(run_here, environment, tmp_path):
    return lambda *arguments: run_here(arguments, environment, tmp_path)


def test_a_detached_copy_tells_its_outcomes_and_its_end(shell_command, registry, receiver):
    stages = {pushed.tag for pushed in push_stages(registry, "app/stages", 3)}
    told = ["--on-outcome-url", f"{receiver.url}/outcome", "--on-finish-url", f"{receiver.url}/finish"]
    repositories = (f"{registry.host}/app/stages", f"{registry.host}/app/copy")
    left = shell_command("copy", *repositories, "--detach", *told)
    assert (0, "") == (left.returncode, left.stderr)
    calls = receiver.wait_for(lambda calls: any(call.path == "/finish" for call in calls))
    assert stages == {call.item for call in receiver.to("/outcome")}
    assert left.stdout.strip() == calls[-1].message["data"]["run"]


def test_an_attached_one_reports_too(command, registry, receiver):
    (pushed,) = push_stages(registry, "app/stages", 1)
    told = ("--on-outcome-url", f"{receiver.url}/outcome")
    ended = command("delete", f"{registry.host}/app/stages", pushed.tag, "--json", *told)
    assert 0 == ended.returncode, ended.stderr
    outcome, summary = [json.loads(line) for line in ended.stdout.splitlines()]
    assert (pushed.tag, "succeeded") == (outcome["item"], summary["state"])
    assert [outcome] == [call.message["data"]["outcome"] for call in receiver.to("/outcome")]


@pytest.fixture
def told(receiver):
    """Options that name the receiver."""
    return ("--on-outcome-url", f"{receiver.url}/outcome", "--on-finish-url", f"{receiver.url}/finish")


def test_a_publication_tells_each_outcome_once_until_it_is_acknowledged(command, registry, receiver, told):
    stages = {pushed.tag for pushed in push_stages(registry, "app/stages", 3)}
    receiver.answers.extend([500, 200, 503])
    storages = ("--primary", f"{registry.host}/app/stages", "--final", f"{registry.host}/app/final")
    left = command("publish", *storages, "--detach", *told)
    assert 0 == left.returncode, left.stderr
    calls = receiver.wait_for(lambda calls: any(call.path == "/finish" for call in calls))
    assert all(call.is_signed for call in calls)
    accepted = Counter(call.item for call in receiver.to("/outcome") if call.answer == 200)
    assert dict.fromkeys(stages, 1) == accepted, "what was acknowledged is not told again"
    assert {"publish_stage"} == {call.message["data"]["operation"] for call in calls}


def test_a_removal_of_records_tells_its_outcomes(command, registry, receiver, told):
    (pushed,) = push_stages(registry, "app/stages", 1)
    repository = f"{registry.host}/app/stages"
    added = command("records", "add", repository, "custom-tag", "latest", pushed.tag)
    assert 0 == added.returncode, added.stderr
    left = command("records", "remove", repository, "custom-tag", "latest", "--detach", *told)
    assert 0 == left.returncode, left.stderr
    calls = receiver.wait_for(lambda calls: any(call.path == "/finish" for call in calls))
    assert [("latest", "succeeded")] == [
        (call.item, call.message["data"]["outcome"]["state"]) for call in receiver.to("/outcome")
    ]
    assert all(call.is_signed for call in calls)


def test_each_group_of_a_purge_tells_its_outcomes_and_its_end(command, registry, receiver, told):
    (pushed,) = push_stages(registry, "app/stages", 1)
    repository = f"{registry.host}/app/stages"
    for record in (("managed-image", "web"), ("custom-tag", "latest", pushed.tag)):
        assert 0 == command("records", "add", repository, *record).returncode
    purged = command("purge", repository, "--yes", "--json", *told)
    assert 0 == purged.returncode, purged.stderr
    runs = [group["run"] for group in map(json.loads, purged.stdout.splitlines()) if group["run"]]
    calls = receiver.wait_for(lambda _: len(receiver.to("/finish")) == 3)
    assert [pushed.tag, "web", "latest"] == [call.item for call in receiver.to("/outcome")]
    assert runs == [call.message["data"]["run"] for call in receiver.to("/finish")]
    assert all(call.is_signed for call in calls)


def test_a_receiver_that_wants_no_more_ends_a_purge(command, registry, receiver, told):
    (pushed,) = push_stages(registry, "app/stages", 1)
    repository = f"{registry.host}/app/stages"
    assert 0 == command("records", "add", repository, "custom-tag", "latest", pushed.tag).returncode
    receiver.answers.append(410)
    purged = command("purge", repository, "--yes", *told)
    assert 3 == purged.returncode, purged.stderr
    assert [pushed.tag] == [call.item for call in receiver.to("/outcome")]


def test_a_retry_may_name_whom_else_to_call(command, registry, receiver, told):
    (pushed,) = push_stages(registry, "app/stages", 1)
    repository = f"{registry.host}/app/stages"
    broken = command("records", "remove", repository, "rejected-stage", pushed.tag, "--json")
    failed = json.loads(broken.stdout.splitlines()[-1])
    assert "failed" == failed["state"]
    command("runs", "retry", failed["run"], *told)
    receiver.wait_for(lambda calls: any(call.path == "/finish" for call in calls))
    assert [pushed.tag] == [call.item for call in receiver.to("/outcome")]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--on-outcome-url", "https://me:hunter2@ci.test/"], "holds a login"),
        (["--on-outcome-url", "https://ci.test/", "--on-outcome-task", "acme.note"], "not to both"),
        (["--on-outcome-url", "http://a..b/hunter2"], "the outcome URL is malformed"),
        (["--on-outcome-task", "acme.note@unacked"], "a name that Celery needs itself"),
        (["--on-finish-url", "https://ci.test/", "--embedded"], "does not go with --embedded"),
    ],
)
def test_what_cannot_be_called_is_refused(command, options, words):
    refused = command("copy", "a.test/app", "b.test/app", *options)
    assert (2, "") == (refused.returncode, refused.stdout)
    assert words in refused.stderr
    assert "hunter2" not in refused.stderr
