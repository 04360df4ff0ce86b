"""Which queues a worker listens to."""

from __future__ import annotations

from pathlib import Path

import pytest

from stagefleet.errors import SettingsError
from stagefleet.runs.messages import QUEUES
from stagefleet.settings import EngineSettings
from workers.supervisor import choose_queues

WITH = EngineSettings(url="unix:///run/engine.sock", host="builder-1")


@pytest.fixture
def without(monkeypatch, tmp_path):
    for variable in ("DOCKER_HOST", "DOCKER_CONTEXT"):
        monkeypatch.delenv(variable, raising=False)
    for variable in ("HOME", "DOCKER_CONFIG", "XDG_RUNTIME_DIR"):
        monkeypatch.setenv(variable, str(tmp_path))
    monkeypatch.setattr("stagefleet.engine_address._SYSTEM_SOCKET", tmp_path / "none.sock")
    return EngineSettings()


def test_a_worker_without_engine_listens_to_all_but_fetches(without):
    assert sorted(set(QUEUES.values()) - {"fetch"}) == choose_queues(None, without)


def test_a_worker_with_engine_listens_to_all_and_to_its_host_s_own():
    assert [*sorted(set(QUEUES.values())), "host.builder-1"] == choose_queues(None, WITH)


def test_a_host_without_a_name_has_the_machine_s(monkeypatch):
    monkeypatch.setattr("socket.gethostname", lambda: "vm-7")
    assert "host.vm-7" == choose_queues(["fetch"], EngineSettings(url="unix:///run/engine.sock"))[-1]


def test_a_worker_set_aside_for_other_work_does_not_listen_to_its_host_s_own():
    assert ["copy"] == choose_queues(["copy", "copy"], WITH)


def test_a_worker_with_directories_for_layouts_listens_to_its_host_s_own(without):
    assert choose_queues(None, without, [Path("/srv")])[-1].startswith("host.")
    assert ["copy", "host.builder-1"] == choose_queues(["copy"], WITH, [Path("/srv")])


def test_to_fetch_without_engine_is_refused_with_what_to_do(without):
    with pytest.raises(SettingsError, match="STAGEFLEET_ENGINE__URL"):
        choose_queues(["fetch"], without)


@pytest.mark.parametrize("asked", [["copy", "nonsense"], []])
def test_queues_that_do_not_exist_are_refused_with_those_that_do(asked):
    with pytest.raises(SettingsError, match="there are coordinate, copy, delete"):
        choose_queues(asked, WITH)
