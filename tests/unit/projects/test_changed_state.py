"""Looking again while storages change."""

from __future__ import annotations

import pytest

from stagefleet.errors import StageNotFoundError, StorageStateChangedError
from stagefleet.projects.lookup import retry_on_changed_state


class LookUp:
    """Fails so many times, then answers."""

    def __init__(self, failures, error=StorageStateChangedError):
        self.calls, self.failures, self.error = 0, failures, error

    def __call__(self):
        self.calls += 1
        if self.calls <= self.failures:
            raise self.error("gone")
        return "found"


def test_a_look_up_that_succeeds_is_called_once():
    look_up = LookUp(0)
    pauses: list[float] = []
    assert "found" == retry_on_changed_state(look_up, sleep=pauses.append)
    assert (1, []) == (look_up.calls, pauses)


def test_the_fifth_try_is_the_last_and_pauses_double_up_to_ten_seconds():
    look_up = LookUp(9)
    pauses: list[float] = []
    with pytest.raises(StorageStateChangedError):
        retry_on_changed_state(look_up, sleep=pauses.append)
    assert 5 == look_up.calls
    for pause, longest in zip(pauses, (2, 4, 8, 10), strict=True):
        assert 0.75 * longest <= pause <= longest


def test_what_changed_back_is_found():
    look_up = LookUp(4)
    assert "found" == retry_on_changed_state(look_up, sleep=lambda _: None)


def test_other_errors_are_not_tried_again():
    look_up = LookUp(1, StageNotFoundError)
    with pytest.raises(StageNotFoundError):
        retry_on_changed_state(look_up, sleep=lambda _: None)
    assert 1 == look_up.calls
