"""Workers and Flower on a Redis that they cannot use, or can use by the rights that the documents name."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from stagefleet.processes import isolated_command
from tests.integration.workers.conftest import LIMIT_SECONDS, Fleet
from tests.services import clean_environment, stagefleet_command

RULE = re.compile(r"~stagefleet:\* &\* \S.*?(?=[`)\n])")


def ask_all(redis):
    """Redis that wants a password."""
    redis.client().config_set("requirepass", "hunter2")
    return redis.url


def join_cluster(redis):
    """A cluster of one."""
    redis.client().execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
    return redis.url


def forbid(redis):
    """A user who may do too little."""
    redis.client().execute_command("ACL", "SETUSER", "u", "on", ">hunter2", "~stagefleet:*", "+@read", "+del")
    return redis.url.replace("//", "//u:hunter2@")


@pytest.fixture
def start(tmp_path, cleanup):
    def start(url, *command):
        process = subprocess.Popen(
            command,
            env=clean_environment(STAGEFLEET_REDIS_URL=url, DOCKER_CONFIG=str(tmp_path)),
            cwd=tmp_path,
            stderr=subprocess.PIPE,
            text=True,
        )
        cleanup.callback(process.communicate)
        cleanup.callback(process.kill)
        return process

    return start


@pytest.fixture
def urls(make_redis):
    """What cannot be used, and the words that say why."""
    return [
        (ask_all(make_redis()), "refuses the login (NOAUTH"),
        (
            join_cluster(make_redis(options={"cluster-enabled": "yes"})),
            "is in cluster mode, which is not supported",
        ),
        (forbid(make_redis()), "these rights: ~stagefleet:*"),
    ]


def test_what_cannot_be_used_ends_a_worker_and_flower_in_one_line(start, urls):
    """U11, W35: a worker, and Flower, end at once with exit code 2 and one line: waiting does not help."""
    worker = stagefleet_command("worker", "--processes", "2")
    started = [(start(url, *worker), words) for url, words in urls]
    started += [(start(url, *isolated_command("config.flower")), words) for url, words in urls[:1]]
    for process, words in started:
        _, errors = process.communicate(timeout=LIMIT_SECONDS)
        (line,) = errors.splitlines()
        assert (2, True) == (process.returncode, words in line), line
        assert "hunter2" not in line


def test_the_rights_that_the_documents_name_are_enough(make_redis, workers, settings):
    """R8: a user with the rights of docs/operations.md runs a fleet; nothing is refused."""
    (rule,) = set(RULE.findall(Path("docs/operations.md").read_text(encoding="utf-8")))
    redis = make_redis()
    redis.client().execute_command("ACL", "SETUSER", "fleet", "on", ">hunter2", *rule.split())
    url = redis.url.replace("//", "//fleet:hunter2@")
    workers.environment["STAGEFLEET_REDIS_URL"] = url
    workers.start()
    fleet = Fleet(url, settings)
    run, _ = fleet.follow(fleet.submit(20))
    fleet.ledger.close()
    assert "succeeded" == run.state
    assert "refuses" not in workers.log.read_text()
