"""`stagefleet locks`, on a real Redis."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest

from stagefleet.cli import run_command
from stagefleet.errors import LockLostError


@dataclass
class Result:
    code: int
    out: str
    err: str


@pytest.fixture
def run(redis_server, monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("STAGEFLEET_REDIS_URL", redis_server.url)
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        code = run_command(["locks", *arguments])
        return Result(code, *capsys.readouterr())

    return run


def test_list_shows_who_holds_what(locks, run):
    with locks.acquire("a", label="builder 7"), locks.acquire("b", shared=True, label="builder 8"):
        assert ["a  builder 7", "b  builder 8 (shared)"] == run("list").out.splitlines()
        first, _ = map(json.loads, run("list", "--json").out.splitlines())
    assert ("a", "builder 7", False) == (
        first["name"],
        first["holders"][0]["label"],
        first["holders"][0]["shared"],
    )
    assert "" == run("list").out


def test_show_tells_the_holders_and_who_waits(locks, run):
    with locks.acquire("a", label="builder 7") as hold:
        locks._request("a", "me", "builder 9", shared=True)
        _, held, waiting = run("show", "a").out.splitlines()
    assert held.startswith(f"  held     {hold.ticket}  builder 7, lease ends in ")
    assert held.endswith(f"fence {hold.fence}")
    assert waiting.startswith("  waiting  me  builder 9 (shared), lease ends in ")


def test_show_of_a_lock_that_nobody_holds_is_wrong_use(run):
    result = run("show", "nothing")
    assert 2 == result.code
    assert "lock nothing is neither held nor waited for" in result.err


def test_release_takes_a_lock_from_its_holder(locks, run):
    hold = locks.acquire("a")

    result = run("release", "a", "--yes")

    assert (0, "released a: 1 hold\n") == (result.code, result.out)
    locks._renewer.renew()
    with pytest.raises(LockLostError):
        hold.check()


def test_release_of_one_holder_leaves_the_others(locks, run):
    first, second = (locks.acquire("a", shared=True) for _ in range(2))

    assert 0 == run("release", "a", first.ticket, "--yes").code

    (info,) = locks.locks()
    assert [second.ticket] == [holder.ticket for holder in info.holders]
    second.release()


def test_release_asks_and_where_nobody_can_answer_refuses(locks, run):
    with locks.acquire("a", label="builder 7") as hold:
        result = run("release", "a")
        assert 2 == result.code
        assert "add --yes to take a from builder 7" in result.err
        hold.check()
        assert ["a"] == [info.name for info in locks.locks()]


def test_release_of_a_stranger_names_the_holders(locks, run):
    with locks.acquire("a") as hold:
        result = run("release", "a", "stranger", "--yes")
    assert 2 == result.code
    assert f"held by: {hold.ticket}" in result.err


def test_locks_need_a_fleet(run, monkeypatch):
    monkeypatch.delenv("STAGEFLEET_REDIS_URL")
    result = run("list")
    assert 2 == result.code
    assert "STAGEFLEET_REDIS_URL" in result.err
