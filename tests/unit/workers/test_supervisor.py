"""What a supervisor decides; that it does so with real processes is tested in integration/workers."""

import pytest

from stagefleet.errors import SettingsError
from stagefleet.settings import Settings
from workers.supervisor import Child, _with_options


def test_a_process_that_dies_early_is_started_again_after_longer_and_longer_pauses():
    child = Child(1)
    pauses = [child.note_end(now=0.0) for _ in range(12)]
    assert 0.25 <= pauses[0] <= 0.5
    assert all(15 <= pause <= 30 for pause in pauses[7:])
    assert child.start_at == pauses[-1]


def test_a_process_that_lived_long_is_started_again_at_once():
    child = Child(1, failures=5, started_at=0.0)
    assert 0.0 == child.note_end(now=31.0)
    assert 0 == child.failures


def test_options_stand_over_the_settings():
    settings = _with_options(Settings(), 3, None)
    assert (3, 8) == (settings.worker.processes, settings.worker.concurrency)
    with pytest.raises(SettingsError, match="--concurrency 0"):
        _with_options(Settings(), None, 0)
