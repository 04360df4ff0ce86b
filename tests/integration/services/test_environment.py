"""What is started knows nothing of this process's settings, and everything of those that it is given."""

from __future__ import annotations

from stagefleet.settings import RunSettings, Settings, load_settings
from tests.services import clean_environment, setting_variables


def test_settings_are_left_behind_however_they_are_written(monkeypatch):
    for name in ("STAGEFLEET_REDIS_URL", "stagefleet_runs__parallel"):  # both would be read
        monkeypatch.setenv(name, "the user's")
    monkeypatch.setenv("DOCKER_CONFIG", "the user's")
    environment = clean_environment(STAGEFLEET_REDIS_URL="the test's", HOME="/nonexistent")
    assert {"STAGEFLEET_REDIS_URL": "the test's"} == {
        name: text for name, text in environment.items() if name.upper().startswith("STAGEFLEET_")
    }
    assert ("/nonexistent", "the user's") == (environment["HOME"], environment["DOCKER_CONFIG"])


def test_settings_are_read_back_from_their_variables(monkeypatch):
    settings = Settings(runs=RunSettings(parallel=3, lease_seconds=7))
    for name, text in setting_variables(settings, "runs").items():
        monkeypatch.setenv(name, text)
    assert settings.runs == load_settings().runs
