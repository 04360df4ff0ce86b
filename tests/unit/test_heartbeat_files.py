"""Heartbeats in files: what a health check believes without asking Redis."""

from __future__ import annotations

import os
import time
from types import SimpleNamespace

import pytest

from stagefleet import processes
from stagefleet.processes import LIFE_SECONDS, HeartbeatFile, count_live

URL = "redis://user:secret@redis.test:6379/0"


@pytest.fixture(autouse=True)
def parent(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "_HEARTBEAT_PARENTS", (tmp_path / "gone", tmp_path))
    monkeypatch.setenv("STAGEFLEET_REDIS_URL", URL)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def beat(name="", url=URL, prefix="stagefleet:"):
    file = HeartbeatFile(name, url, prefix)
    file.beat()
    return file


def folder(parent):
    return parent / f"stagefleet.{os.geteuid()}"


def test_a_worker_that_beats_lives_until_it_signs_off():
    assert 0 == count_live()
    file = beat()
    file.beat()
    assert 1 == count_live()
    file.remove()
    file.remove()
    assert 0 == count_live()


def test_each_process_of_a_host_counts(monkeypatch):
    beat()
    monkeypatch.setattr(os, "getpid", lambda: 4_000_000)
    beat()
    assert 2 == count_live()


def test_workers_of_a_container_that_shares_the_folder_and_the_process_ids_do_not_count(monkeypatch):
    beat()
    monkeypatch.setattr(os, "uname", lambda: SimpleNamespace(nodename="another"))
    assert 0 == count_live()


def test_a_worker_that_hangs_is_not_taken_for_a_live_one(monkeypatch):
    beat()
    later = time.monotonic() + LIFE_SECONDS
    monkeypatch.setattr("stagefleet.processes.time.monotonic", lambda: later)
    assert 0 == count_live()


@pytest.mark.parametrize(
    "other",
    [{"name": "other"}, {"url": "redis://redis.test:6379/1"}, {"prefix": "other:"}],
)
def test_workers_of_another_name_or_fleet_do_not_count(other):
    beat(**other)
    assert 0 == count_live()


@pytest.mark.parametrize("part", ["boot", "namespace"])
def test_workers_of_another_container_do_not_count(monkeypatch, part):
    beat()
    monkeypatch.setattr(processes, "machine_hash", lambda: part)
    assert 0 == count_live()


def test_name_and_fleet_are_read_from_the_file_too(parent, monkeypatch):
    monkeypatch.delenv("STAGEFLEET_REDIS_URL")
    text = f'redis_url = "{URL}"\nkey_prefix = "ours:"\n[worker]\nname = "build-1"\n'
    (parent / "stagefleet.toml").write_text(text)
    beat("build-1", prefix="ours:")
    assert 1 == count_live()
    monkeypatch.setenv("stagefleet_worker__name", "build-2")
    assert 0 == count_live()


def test_what_only_the_settings_can_read_is_left_to_them(parent, monkeypatch):
    beat()
    monkeypatch.setenv("STAGEFLEET_WORKER", '{"name": "other"}')
    assert 0 == count_live()
    monkeypatch.delenv("STAGEFLEET_WORKER")
    (parent / "stagefleet.toml").write_text("no TOML")
    assert 0 == count_live()


@pytest.mark.parametrize("mode", [0o770, 0o707])
def test_a_folder_that_others_may_enter_is_not_believed(parent, mode):
    beat()
    folder(parent).chmod(mode)
    assert 0 == count_live()
    folder(parent).chmod(0o700)
    assert 1 == count_live()


def test_a_folder_of_another_user_is_neither_believed_nor_written(parent, monkeypatch):
    beat()
    (parent / f"stagefleet.{os.geteuid() + 1}").mkdir(mode=0o700)
    user = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: user + 1)
    assert 0 == count_live()
    beat()
    assert [] == list((parent / f"stagefleet.{user + 1}").iterdir())


def test_a_link_is_not_followed(parent):
    elsewhere = parent / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    folder(parent).symlink_to(elsewhere)
    beat()
    assert [] == list(elsewhere.iterdir())


def test_a_half_written_file_proves_nothing(parent):
    beat()
    for file in folder(parent).iterdir():
        file.write_text("")
    assert 0 == count_live()


def test_files_of_killed_workers_are_removed(parent):
    beat()
    (old,) = folder(parent).iterdir()
    old = old.rename(old.with_name("dead-1"))
    os.utime(old, (0, 0))
    beat()
    assert ["dead-1"] != [file.name for file in folder(parent).iterdir()]
    assert not old.exists()


def test_without_a_folder_to_write_to_a_worker_works_all_the_same(parent, monkeypatch):
    monkeypatch.setattr(processes, "_HEARTBEAT_PARENTS", (parent / "gone",))
    beat().remove()
    assert 0 == count_live()
