from __future__ import annotations

import pytest

STAGES = ("src.test/app", "dst.test/app")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "Missing command"),
        (("frob",), "No such command"),
        (("runs",), "Missing command"),
        (("copy",), "Missing argument 'SRC'"),
        (("copy", "src.test/app"), "Missing argument 'DST'"),
        (("copy", "https://src.test/app", "dst.test/app"), "leave out the scheme"),
        (("copy", "src.test/app", "src.test/app"), "are the same"),
        (("copy", *STAGES, "nonsense"), "is no stage id"),
        (("copy", *STAGES, "f" * 56), "does not have"),
        (("copy", *STAGES, "-j", "0"), "--parallel 0"),
        (("copy", *STAGES, "-j", "-2"), "--parallel -2"),
        (("copy", *STAGES, "-j", "x"), "'-j' / '--parallel'"),
        (("copy", "docker-daemon:app", "dst.test/app"), "Docker Engine"),
        (("list", "docker-daemon:"), "names no project"),
        (("fetch", "src.test/app", "f" * 56, "--platform", "foo"), "--platform: 'foo' is no platform"),
        (("fetch", "src.test/app", "f" * 56, "--platform", "a/b", "--all-platforms"), "leave out --platform"),
        (("fetch", "docker-daemon:app", "f" * 56, "--platform", "linux/arm64"), "leave them out"),
    ],
)
@pytest.mark.usefixtures("in_fleet")
def test_wrong_use_is_one_line_and_exit_code_2(command, ledger, arguments, words):
    result = command(*arguments)
    assert (2, "") == (result.code, result.out)
    (line,) = result.err.splitlines()
    assert line.startswith("stagefleet: error: ")
    assert words in line
    assert [] == list(ledger.runs())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("copy", *STAGES, "--detach"), "--detach needs a fleet"),
        (("copy", *STAGES, "--idempotency-key", "k"), "--idempotency-key needs a fleet"),
        (("copy", *STAGES, "--detach", "--embedded"), "--detach does not go with --embedded"),
        (("runs", "list"), "needs a fleet"),
        (("runs", "show", "x"), "needs a fleet"),
        (("worker",), "needs a fleet"),
        (("fetch", "src.test/app", "f" * 56, "--platform", "foo"), "'foo' is no platform"),
    ],
)
def test_what_needs_a_fleet_is_refused_without_one(command, arguments, words):
    result = command(*arguments)
    assert 2 == result.code
    (line,) = result.err.splitlines()
    assert words in line


def test_without_a_redis_url_commands_are_embedded_and_say_so(command, without_fleet, fake_worker):
    result = command("copy", *STAGES)
    assert 0 == result.code
    assert "no STAGEFLEET_REDIS_URL" in result.err


def test_asked_for_embedded_is_not_said_again(command, without_fleet, fake_worker):
    assert "" == command("copy", *STAGES, "--embedded").err


def test_unreadable_settings_are_named_with_file_and_key(command, tmp_path):
    (tmp_path / "stagefleet.toml").write_text("[runs]\nparallel = 'many'\n")
    result = command("list", "src.test/app")
    assert 2 == result.code
    assert "stagefleet.toml, key runs.parallel" in result.err


def test_a_bug_is_one_line_too(command, in_fleet, registries, monkeypatch):
    monkeypatch.setattr(registries, "stage_ids", lambda _: 1 / 0)
    result = command("list", "src.test/app")
    assert 1 == result.code
    assert "stagefleet: error: unexpected ZeroDivisionError" in result.err
    assert "Traceback" not in result.err


def test_at_the_debug_level_the_traceback_is_shown(command, in_fleet, registries, monkeypatch):
    monkeypatch.setenv("STAGEFLEET_LOG__LEVEL", "debug")
    monkeypatch.setattr(registries, "stage_ids", lambda _: 1 / 0)
    assert "Traceback" in command("list", "src.test/app").err


def test_no_redis_at_the_url_gives_exit_code_4_and_hides_the_password(command, monkeypatch, tmp_path):
    monkeypatch.setenv("STAGEFLEET_REDIS_URL", f"unix://user:hunter2@{tmp_path}/nobody.sock")
    result = command("runs", "list")
    assert 4 == result.code
    assert "does not answer" in result.err
    assert "hunter2" not in result.err


def test_an_interrupt_before_anything_is_started_gives_exit_code_3(
    command, in_fleet, registries, monkeypatch
):
    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(registries, "stage_ids", interrupt)
    result = command("copy", *STAGES)
    assert (3, "stagefleet: error: interrupted\n") == (result.code, result.err)


def test_help_and_version_are_results(command):
    assert "Usage: stagefleet" in command("--help").out
    assert command("--version").out.startswith("stagefleet ")
