"""What is started knows nothing of this process's settings."""

from __future__ import annotations

from tests.services import clean_environment


def test_settings_are_left_behind_however_they_are_written(monkeypatch):
    for name in ("STAGEFLEET_REDIS_URL", "stagefleet_runs__parallel"):  # both would be read
        monkeypatch.setenv(name, "the user's")
    monkeypatch.setenv("DOCKER_CONFIG", "the user's")
    environment = clean_environment(STAGEFLEET_REDIS_URL="the test's", HOME="/nonexistent")
    assert {"STAGEFLEET_REDIS_URL": "the test's"} == {
        name: text for name, text in environment.items() if name.upper().startswith("STAGEFLEET_")
    }
    assert ("/nonexistent", "the user's") == (environment["HOME"], environment["DOCKER_CONFIG"])
