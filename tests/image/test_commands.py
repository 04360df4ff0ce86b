"""The image as a plain command: `docker run IMAGE ARGUMENTS`."""

from __future__ import annotations

import json
import socket
from importlib.metadata import version

import pytest
import typer
from typer.core import TyperGroup

from stagefleet.cli.app import app
from tests.image.containers import NETWORK, OPENSHIFT, START_SECONDS, exit_code, wait_for_log

VERSION = version("stagefleet")
USERS = {"its own": (), "unknown": ("--user", "4711:4711"), "OpenShift's": OPENSHIFT}


@pytest.fixture(params=sorted(USERS))
def user(request):
    return USERS[request.param]


@pytest.fixture
def run(docker, image):
    """Runs a container of the image to its end."""
    return lambda *arguments, options=(): docker("run", *NETWORK, *options, image, *arguments)


def test_the_version_is_that_of_the_source(run, user):
    done = run("--version", options=user)
    assert (0, f"stagefleet {VERSION}\n", "") == (done.returncode, done.stdout, done.stderr)


def test_a_repository_is_listed(run, mirror, user):
    done = run("list", mirror.source, options=user)
    assert (0, list(mirror.stages)) == (done.returncode, sorted(done.stdout.split())), done.stderr


def test_a_repository_that_is_missing_ends_with_2(run, registry):
    done = run("list", f"{registry.host}/no/such")
    assert (2, "") == (done.returncode, done.stdout)
    assert f"{registry.host}/no/such" in done.stderr


@pytest.mark.parametrize("word", ["no-such-command", "wait"])
def test_a_word_that_is_no_command_is_told_by_the_command_line(run, word):
    done = run(word)
    assert (2, "") == (done.returncode, done.stdout)
    assert f"No such command '{word}'" in done.stderr


def test_no_command_is_hidden_by_a_program_of_the_image(run):
    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)
    names = sorted(group.commands)
    assert "copy" in names
    done = run("sh", "-c", 'for name in "$@"; do command -v "$name"; done; true', "sh", *names)
    assert (0, "") == (done.returncode, done.stdout), done.stderr


def test_a_worker_without_a_redis_ends_with_2(run):
    done = run("worker")
    assert (2, "") == (done.returncode, done.stdout)
    assert "STAGEFLEET_REDIS_URL" in done.stderr


def test_stages_are_copied_without_a_fleet(run, mirror, logins, user):
    done = run("copy", "--json", mirror.source, mirror.destination, options=[*logins, *user])
    assert 0 == done.returncode, done.stderr
    assert list(mirror.stages) == mirror.copied()


def test_stages_are_copied_by_the_fleet(run, mirror, logins, fleet):
    options = [*logins, "-e", f"STAGEFLEET_REDIS_URL={fleet}", *OPENSHIFT]
    done = run("copy", "--json", mirror.source, mirror.destination, options=options)
    assert 0 == done.returncode, done.stderr
    assert list(mirror.stages) == mirror.copied()


def test_a_broken_stage_ends_the_command_with_1(run, mirror, logins, fleet):
    broken = mirror.break_one()
    options = [*logins, "-e", f"STAGEFLEET_REDIS_URL={fleet}"]
    done = run("copy", "--json", mirror.source, mirror.destination, options=options)
    assert 1 == done.returncode, done.stderr
    outcomes = [json.loads(line) for line in done.stdout.splitlines()[:-1]]
    assert [broken] == [outcome["item"] for outcome in outcomes if outcome["state"] == "failed"]


def test_docker_stop_cancels_the_run_of_a_command(docker, image, mirror, logins, fleet):
    """The command is the container's first process, so the signal reaches it."""
    with mirror.with_gate() as (gated, gate):
        options = [*NETWORK, *logins, "-e", f"STAGEFLEET_REDIS_URL={fleet}"]
        command = ["copy", "-j", "1", gated.source, gated.destination]
        container = docker.answer("run", "--detach", *options, image, *command)
        assert gate.reached.wait(START_SECONDS)
        docker.answer("kill", "--signal", "TERM", container)
        wait_for_log(docker, container, "cancelling run")
        gate.open.set()
        assert 3 == exit_code(docker, container)


def test_docker_stop_ends_a_command_that_has_no_run_yet(docker, image):
    """A signal that it does not expect would not end the first process of a container."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(START_SECONDS)
        repository = f"127.0.0.1:{server.getsockname()[1]}/app"
        container = docker.answer("run", "--detach", *NETWORK, image, "list", repository)
        connection, _ = server.accept()
        with connection:
            docker.answer("stop", "--time", 60, container)
        assert 3 == exit_code(docker, container)
