"""What a person at a shell sees of logins and certificates: the exit code and the one line."""

from __future__ import annotations

import json
import re

import pytest

from tests.services import ImageMaker, clean_environment, push_image, stage_id_of

USERS = {"ci": "right"}


@pytest.fixture
def command(run_here, tmp_path, config_file):
    """Runs a command that reads the test's own settings and logins."""
    environment = clean_environment(
        HOME=str(tmp_path),
        DOCKER_CONFIG=str(config_file.parent),
        STAGEFLEET_HTTP__RETRIES="0",
        STAGEFLEET_WORKER__PROCESSES="1",
    )
    return lambda *arguments: run_here(arguments, environment, tmp_path)


@pytest.fixture
def set_up(tmp_path):
    """Writes the settings of registries into the file that the command reads."""

    def set_up(server, **settings):
        lines = [f'[registries."{server.host}"]', "plain_http = false"]
        lines += [f"{name} = {json.dumps(value)}" for name, value in settings.items()]
        (tmp_path / "stagefleet.toml").write_text("\n".join(lines))

    return set_up


@pytest.fixture
def stage():
    return stage_id_of("a stage")


@pytest.fixture
def locked(make_registry, stage):
    server = make_registry(htpasswd=USERS)
    push_image(server, "source/app", stage)
    return server


@pytest.fixture
def secure(make_registry, tls, stage):
    server = make_registry(tls=tls)
    push_image(server, "source/app", stage)
    return server


def test_doctor_finds_a_login_that_is_right(command, locked, log_in):
    log_in(locked.host, "ci", "right")
    done = command("doctor", f"{locked.host}/source/app")
    assert 0 == done.returncode, done.stdout + done.stderr
    assert f"ok       {locked.host}/source/app: the registry answers, and there are stages" in done.stdout


@pytest.mark.parametrize("arguments", [("doctor",), ("list",), ("copy", "away.test/app")])
def test_a_login_that_is_wrong_gives_2_and_names_file_and_remedy(
    command, locked, log_in, config_file, arguments
):
    log_in(locked.host, "ci", "hunter2")
    name, *others = arguments
    done = command(name, f"{locked.host}/source/app", *others)
    said = done.stdout if name == "doctor" else done.stderr
    (line,) = [line for line in said.splitlines() if "refuses the login" in line]
    assert 2 == done.returncode
    assert f"logins are read from {config_file}; run: docker login {locked.host}" in line
    assert "hunter2" not in done.stdout + done.stderr
    assert name == "doctor" or [line] == done.stderr.splitlines()[-1:]


def test_no_login_gives_2_and_says_which_file_is_missing(command, locked, config_file):
    done = command("list", f"{locked.host}/source/app")
    assert (2, 1) == (done.returncode, len(done.stderr.splitlines()))
    assert f"there is no {config_file}" in done.stderr


def test_stages_are_listed_and_copied_with_a_login(command, locked, log_in, stage):
    log_in(locked.host, "ci", "right")
    listed = command("list", f"{locked.host}/source/app")
    assert (0, f"{stage}\n") == (listed.returncode, listed.stdout)
    copied = command("copy", f"{locked.host}/source/app", f"{locked.host}/target/app", "--json")
    assert 0 == copied.returncode, copied.stderr
    with ImageMaker(locked) as maker:
        assert maker.digest("source/app", stage) == maker.digest("target/app", stage)


def test_an_unknown_authority_gives_4_and_names_the_setting(command, secure, set_up):
    set_up(secure)
    done = command("list", f"{secure.host}/source/app")
    assert (4, 1) == (done.returncode, len(done.stderr.splitlines()))
    assert f'registries."{secure.host}".ca_file' in done.stderr
    examined = command("doctor", f"{secure.host}/source/app")
    assert 4 == examined.returncode
    assert f"failed   {secure.host}/source/app: " in examined.stdout


def test_stages_are_listed_and_copied_over_tls(command, secure, set_up, tls, stage):
    set_up(secure, ca_file=str(tls.ca_file))
    listed = command("list", f"{secure.host}/source/app")
    assert (0, f"{stage}\n") == (listed.returncode, listed.stdout)
    copied = command("copy", f"{secure.host}/source/app", f"{secure.host}/target/app", "--json")
    assert 0 == copied.returncode, copied.stderr
    with ImageMaker(secure) as maker:
        assert maker.digest("source/app", stage) == maker.digest("target/app", stage)


def test_an_authority_that_cannot_be_read_gives_2_and_names_key_and_file(command, secure, set_up, tmp_path):
    set_up(secure, ca_file=str(tmp_path / "nowhere.pem"))
    done = command("list", f"{secure.host}/source/app")
    assert (2, 1) == (done.returncode, len(done.stderr.splitlines()))
    assert f'registries."{secure.host}".ca_file: {tmp_path}/nowhere.pem cannot be used' in done.stderr


@pytest.mark.parametrize(
    "arguments", [("doctor",), ("list",), ("copy", "away.test/app"), ("delete", "--all", "--yes")]
)
def test_a_command_that_speaks_plain_http_to_tls_says_what_mends_it(
    command, secure, tls, tmp_path, arguments
):
    name, *others = arguments
    repository = f"{secure.host}/source/app"
    refused = command(name, repository, *others)
    assert 0 != refused.returncode
    said = refused.stdout + refused.stderr
    ((setting, table),) = set(re.findall(r"set (plain_http = false) under (\[.+\]) in", said))
    (tmp_path / "stagefleet.toml").write_text(f'{table}\n{setting}\nca_file = "{tls.ca_file}"\n')
    assert 0 == command("list", repository).returncode
