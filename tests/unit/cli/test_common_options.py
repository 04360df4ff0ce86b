"""The options of every command, and the variables beside them."""

from __future__ import annotations

import json

import pytest
import typer
from typer.core import TyperGroup

from stagefleet.cli import run_command
from stagefleet.cli.app import COMMANDS as ENTRIES, EPILOGS, app
from stagefleet.cli.options import chosen_options
from stagefleet.cli.session import read_settings
from stagefleet.settings import Settings

SOURCE = "src.test/app"


def leaves(group, prefix=""):
    """Every command, by how it is typed."""
    for name, command in group.commands.items():
        if isinstance(command, TyperGroup):
            yield from leaves(command, f"{prefix}{name} ")
        else:
            yield f"{prefix}{name}", command


COMMANDS = dict(leaves(typer.main.get_command(app)))
EXAMPLES = [line.strip() for text in EPILOGS.values() for line in text.splitlines() if "stagefleet " in line]


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_takes_them(name):
    options = {option for parameter in COMMANDS[name].params for option in parameter.opts}
    assert {"--redis-url", "--insecure", "--plain-http", "-v", "-q", "--debug"} <= options


@pytest.mark.parametrize("arguments", [["--debug", "list", SOURCE], ["list", SOURCE, "--debug"]])
def test_they_stand_before_the_command_or_behind_it(command, without_fleet, arguments):
    assert 0 == command(*arguments).code
    assert chosen_options().debug
    assert "debug" == read_settings().log.level


def test_they_end_with_the_command(command, without_fleet):
    command("--debug", "list", SOURCE)
    command("list", SOURCE)
    assert not chosen_options().debug


@pytest.mark.parametrize(
    ("option", "expected"), [("--insecure", (True, None)), ("--plain-http", (None, True))]
)
def test_registries_are_reached_as_the_options_say(command, without_fleet, option, expected):
    command("list", SOURCE, option)
    registry = read_settings().registry("some.test")
    assert expected == (registry.insecure, registry.plain_http)


@pytest.mark.parametrize("option", ["--plain-http", "--insecure"])
@pytest.mark.parametrize("setting", ["plain_http", "insecure"])
def test_an_option_for_all_registries_overrides_no_registrys_own_setting(
    command, without_fleet, monkeypatch, option, setting
):
    monkeypatch.setenv("STAGEFLEET_REGISTRIES", json.dumps({"127.0.0.1:5000": {setting: False}}))
    command("list", SOURCE, option)
    assert False is getattr(read_settings().registry("127.0.0.1:5000"), setting)


def test_an_option_for_all_registries_counts_where_a_registrys_settings_are_silent(
    command, without_fleet, monkeypatch
):
    monkeypatch.setenv("STAGEFLEET_REGISTRIES", json.dumps({"tls.test": {"ca_file": "/ca.pem"}}))
    command("list", SOURCE, "--insecure")
    dumped = read_settings().model_dump_json()  # as an embedded worker gets it
    assert Settings.model_validate_json(dumped).registry("tls.test").insecure


@pytest.mark.parametrize(
    "url",
    [
        "redis://:pw@redis.test:6379/0",
        "redis://me:pw@redis.test/0",
        "redis://redis.test/0?password=pw",
        "rediss://redis.test/0?ssl_password=pw",
        "redis://u:p@[::1/0",
    ],
)
def test_a_password_has_no_place_on_a_command_line(command, url):
    """R16: a process list shows arguments to every user of the host."""
    refused = command("runs", "list", "--redis-url", url)
    assert 2 == refused.code
    assert "STAGEFLEET_REDIS_URL" in refused.err
    assert "pw" not in refused.err


@pytest.mark.parametrize("url", ["foo", "", "http://redis.test:6379/0", "redis.test:6379"])
def test_no_url_of_a_redis_is_refused_with_what_to_write(command, url):
    refused = command("runs", "list", "--redis-url", url)
    assert (2, True) == (refused.code, "write redis://HOST:PORT/DATABASE" in refused.err)


def test_the_redis_of_the_command_line_is_the_one_that_is_used(command, monkeypatch):
    monkeypatch.setenv("STAGEFLEET_REDIS_URL", "redis://127.0.0.1:1/0")
    result = command("runs", "list", "--redis-url", "redis://127.0.0.1:2/0")
    assert 4 == result.code
    assert "127.0.0.1:2" in result.err


def test_quiet_says_nothing_but_errors(command, without_fleet, fake_worker):
    assert "starting a private Valkey" in command("copy", SOURCE, "dst.test/app").err
    quiet = command("copy", SOURCE, "dst.test/app", "-q")
    assert ("", 0) == (quiet.err, quiet.code)
    assert command("copy", SOURCE, "dst.test/app", "-q", "-j", "0").err.startswith("stagefleet: error:")
    assert 2 == command("list", SOURCE, "-q", "--debug").code


class TestVariables:
    @pytest.mark.parametrize(
        "name", ["STAGEFLEET_REDIS_URL", "STAGEFLEET_CONFIG", "STAGEFLEET_RUNS__PARALLEL"]
    )
    def test_an_empty_one_counts_as_unset(self, command, without_fleet, monkeypatch, name):
        """U6: CI systems set to nothing what is undefined."""
        monkeypatch.setenv(name, "")
        assert 0 == command("list", SOURCE).code

    @pytest.mark.parametrize(
        ("name", "meant"),
        [
            ("STAGEFLEET_REDISURL", "STAGEFLEET_REDIS_URL"),
            ("STAGEFLEET_HTPP__RETRIES", "STAGEFLEET_HTTP__RETRIES"),
            ("STAGEFLEET_PORT", None),
        ],
    )
    def test_an_unknown_one_is_warned_about(self, command, without_fleet, monkeypatch, name, meant):
        """U7: a variable that is no setting is named, with what was probably meant."""
        monkeypatch.setenv(name, "secret")
        told = command("list", SOURCE)
        (line,) = [line for line in told.err.splitlines() if name in line]
        assert (meant is None) == ("did you mean" not in line)
        assert meant is None or meant in line
        assert (0, "secret" in told.err) == (told.code, False)

    @pytest.mark.parametrize(
        "name", ["STAGEFLEET_PROJECTS__APP__PRIMARY", "STAGEFLEET_RUNS__PARALLEL", "stagefleet_log__level"]
    )
    def test_a_known_one_is_not(self, command, without_fleet, monkeypatch, name):
        value = {"STAGEFLEET_RUNS__PARALLEL": "3", "stagefleet_log__level": "info"}.get(name, "reg.test/app")
        monkeypatch.setenv(name, value)
        assert "is no setting" not in command("list", SOURCE).err


class TestConfigShow:
    def test_each_setting_is_told_with_its_source(self, command, monkeypatch, tmp_path):
        (tmp_path / "stagefleet.toml").write_text(
            '[runs]\nparallel = 7\nmax_attempts = 4\n[flower]\nuser = "me"\npassword = "hunter2"\n'
        )
        monkeypatch.setenv("STAGEFLEET_RUNS__PARALLEL", "9")
        monkeypatch.setenv("STAGEFLEET_REDIS_URL", "redis://:hunter3@redis.test/0")
        result = command("config", "show", "--json", "--debug")
        found = {row["setting"]: row for row in result.objects}

        assert (9, "STAGEFLEET_RUNS__PARALLEL") == tuple(found["runs.parallel"].values())[1:]
        assert (4, "stagefleet.toml") == tuple(found["runs.max_attempts"].values())[1:]
        assert ("debug", "command line") == tuple(found["log.level"].values())[1:]
        assert "default" == found["runs.lease_seconds"]["source"]
        assert "STAGEFLEET_REDIS_URL" == found["redis_url"]["source"]
        assert [] == [secret for secret in ("hunter2", "hunter3") if secret in result.out]

    def test_as_text_it_is_a_line_a_setting(self, command):
        told = command("config", "show")
        assert 0 == told.code
        assert any(line.split() == ["runs.parallel", "16", "default"] for line in told.out.splitlines())

    def test_as_text_it_says_what_the_sections_of_registries_and_projects_say(self, command, tmp_path):
        (tmp_path / "stagefleet.toml").write_text(
            '[registries."127.0.0.1:5104"]\nplain_http = false\n[registries."silent.test"]\n'
            '[projects.app]\nprimary = "r.test/app"\ncaches = ["c.test/app", "d.test/app"]\n'
        )
        lines = [line.split() for line in command("config", "show").out.splitlines()]
        told = [line for line in lines if line[0].startswith(("registries", "projects"))]
        assert told == [
            ['registries."127.0.0.1:5104".plain_http', "false", "stagefleet.toml"],
            ['registries."silent.test"', "-", "stagefleet.toml"],
            ['projects."app".primary', "r.test/app", "stagefleet.toml"],
            ['projects."app".caches', "c.test/app,", "d.test/app", "stagefleet.toml"],
        ]


class TestByteOrderMarks:
    """U9: what editors put before the first character is no part of it."""

    def test_in_the_settings_file(self, command, without_fleet, tmp_path):
        (tmp_path / "stagefleet.toml").write_bytes(b"\xef\xbb\xbf[runs]\nparallel = 3\n")
        assert 0 == command("list", SOURCE).code
        assert 3 == read_settings().runs.parallel

    def test_in_a_file_of_ids(self, command, without_fleet, fake_worker, make_stage, tmp_path):
        file = tmp_path / "ids"
        file.write_bytes(b"\xef\xbb\xbf" + f"{make_stage(2)}\n".encode())
        result = command("copy", SOURCE, "dst.test/app", "--from-file", file, "--json")
        assert [str(make_stage(2))] == [row["item"] for row in result.objects if "item" in row]


class TestHelp:
    def test_no_sentence_is_cut_off(self, command):
        told = command("--help").out
        assert "..." not in told.replace("[ARGS]...", "")
        assert all(
            word in told for word in ("Exit codes", "STAGEFLEET_REDIS_URL", "DOCKER_CONFIG", "--insecure")
        )

    @pytest.mark.parametrize("name", sorted(ENTRIES))
    def test_all_commands_and_one_say_the_same_of_it(self, name):
        group = typer.main.get_command(app)
        assert isinstance(group, TyperGroup)
        told = (group.commands[name].help or "").partition("\n\n")[0]
        assert " ".join(told.split()) == ENTRIES[name].help

    @pytest.mark.parametrize(
        "example",
        [line.strip() for text in EPILOGS.values() for line in text.splitlines() if "stagefleet " in line],
    )
    def test_each_example_is_a_command_line(self, example, monkeypatch, tmp_path):
        (tmp_path / "ids.txt").write_text("")
        _, *arguments = example.split()
        assert 0 == run_command([*arguments, "--help"])
        group = typer.main.get_command(app)
        assert isinstance(group, TyperGroup)
        with group.make_context("stagefleet", arguments) as context:
            name, found, rest = group.resolve_command(context, [*context._protected_args, *context.args])
            while isinstance(found, TyperGroup):
                name, found, rest = found.resolve_command(context, rest)
            assert found is not None
            with found.make_context(name, rest, parent=context):
                pass

    def test_every_example_belongs_to_a_command(self):
        assert set() == EPILOGS.keys() - COMMANDS.keys()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_there_for(shell, command, monkeypatch):
    """U8: the shells that people use complete commands and options."""
    monkeypatch.setenv("_STAGEFLEET_COMPLETE", f"source_{shell}")
    source = command()
    assert 0 == source.code
    assert "_STAGEFLEET_COMPLETE" in source.out
    monkeypatch.setenv("_STAGEFLEET_COMPLETE", f"complete_{shell}")
    monkeypatch.setenv("COMP_WORDS", "stagefleet cop")
    monkeypatch.setenv("COMP_CWORD", "1")
    monkeypatch.setenv("_TYPER_COMPLETE_ARGS", "stagefleet cop")
    monkeypatch.setenv("_TYPER_COMPLETE_FISH_ACTION", "get-args")
    completed = command()
    assert 0 == completed.code
    assert "copy" in completed.out


def test_a_module_that_ends_the_process_is_said(command, monkeypatch):
    """U14: it is no closed pipe."""

    def leave():
        raise SystemExit("something on PYTHONPATH")

    monkeypatch.setattr("stagefleet.cli.app.build_command", leave)
    result = command("list", SOURCE)
    assert 1 == result.code
    assert "something on PYTHONPATH" in result.err
