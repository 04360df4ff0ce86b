from __future__ import annotations

import threading

import pytest

from stagefleet.backoff import Backoff
from stagefleet.errors import (
    BrokenStageError,
    CertificateError,
    CredentialsError,
    DigestMismatchError,
    ForbiddenError,
    InvalidNameError,
    RateLimitedError,
    RegistryError,
    RegistryUnavailableError,
    RegistryUnreachableError,
    StageNotFoundError,
    UnsupportedManifestError,
)
from stagefleet.names import StageId
from stagefleet.storages.isolation import describe_all, try_again

IDS = [StageId(f"{number:056x}") for number in range(40)]


def test_descriptions_come_in_the_order_of_asking():
    first_may_go = threading.Event()

    def describe(stage_id):
        if stage_id is IDS[0]:
            first_may_go.wait(5)
        if stage_id is IDS[3]:
            first_may_go.set()
        return stage_id

    assert IDS == list(describe_all(describe, IDS, parallel=4, on_left_out=lambda *_: None))


def test_what_is_gone_or_broken_is_left_out_and_said():
    left_out = []

    def describe(stage_id):
        if stage_id is IDS[1]:
            raise StageNotFoundError("gone")
        if stage_id is IDS[2]:
            raise BrokenStageError("broken")
        return stage_id

    found = list(
        describe_all(
            describe, IDS[:4], parallel=2, on_left_out=lambda *args: left_out.append((args[0], str(args[1])))
        )
    )
    assert [IDS[0], IDS[3]] == found
    assert [(IDS[1], "gone"), (IDS[2], "broken")] == left_out


def test_any_other_error_ends_it():
    def describe(stage_id):
        if stage_id is IDS[1]:
            raise ForbiddenError("no")
        return stage_id

    descriptions = describe_all(describe, IDS, parallel=1, on_left_out=lambda *_: None)
    assert IDS[0] == next(descriptions)
    with pytest.raises(ForbiddenError):
        next(descriptions)


def test_ids_are_read_only_a_little_ahead():
    read = []

    def ids():
        for stage_id in IDS:
            read.append(stage_id)
            yield stage_id

    descriptions = describe_all(lambda stage_id: stage_id, ids(), parallel=2, on_left_out=lambda *_: None)
    next(descriptions)
    assert 8 == len(read)
    descriptions.close()


def test_a_fleet_describes_all_or_those_named(fleet, make_stage, notices):
    assert 5 == len(list(fleet.describe_stages("src.test/app")))
    named = list(fleet.describe_stages("src.test/app", [make_stage(2), make_stage(77)]))
    assert [make_stage(2)] == [str(description.stage_id) for description in named]
    assert "is left out" in notices[0]


def test_only_what_is_not_known_is_described_and_the_order_stays():
    described = []

    def describe(stage_id):
        described.append(stage_id)
        return stage_id

    def find(stage_ids):
        return [stage_id if n % 2 else None for n, stage_id in enumerate(stage_ids)]

    assert IDS == list(describe_all(describe, IDS, parallel=3, on_left_out=lambda *_: None, find=find))
    assert IDS[::2] == sorted(described)


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch):
    monkeypatch.setattr("stagefleet.storages.isolation._BACKOFF", Backoff(0.0, 0.0))


def failing_at(stage_id, error):
    def describe(one):
        if one == stage_id:
            raise error
        return one

    return describe


def answers():
    """A registry that is there, and takes the login."""


@pytest.mark.parametrize(
    "error",
    [
        UnsupportedManifestError("schema 1"),
        RegistryUnavailableError("500", status=500),
        RegistryError("451", status=451),
        ForbiddenError("quarantined", status=403),
        RegistryUnreachableError("closes the connection at this one"),
        DigestMismatchError("altered"),
        InvalidNameError("a hostile name"),
        RecursionError("a bug of ours"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_whatever_is_wrong_with_one_stage_hides_no_other(error):
    """R11, x1: it is left out and named, whatever it is."""
    left_out = []
    found = describe_all(
        failing_at(IDS[1], error),
        IDS[:4],
        parallel=2,
        on_left_out=lambda *told: left_out.append(told),
        ping=answers,
    )
    assert [IDS[0], *IDS[2:4]] == list(found)
    assert [(IDS[1], error)] == left_out


@pytest.mark.parametrize(
    "error",
    [
        CredentialsError("no login"),
        ForbiddenError("the login is refused", status=401),
        RateLimitedError("slow down"),
        CertificateError("not to be trusted"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_meets_all_stages_stops(error):
    """x1: a registry that refuses the login, or asks all to wait, is no matter of one stage."""
    with pytest.raises(type(error)):
        list(
            describe_all(
                failing_at(IDS[1], error), IDS, parallel=1, on_left_out=lambda *_: None, ping=answers
            )
        )


@pytest.mark.parametrize(
    "error", [RegistryUnreachableError("no answer"), ForbiddenError("denied", status=403)]
)
def test_a_registry_that_does_not_answer_when_it_is_asked_itself_stops(error):
    """x1: whether it is the stage or the registry, the registry is asked."""

    def is_down():
        raise error

    with pytest.raises(type(error)):
        list(
            describe_all(
                failing_at(IDS[1], error), IDS, parallel=1, on_left_out=lambda *_: None, ping=is_down
            )
        )


def test_a_registry_that_fails_at_a_hundred_stages_in_a_row_stops():
    """x1: it is not asked for each of thirty thousand."""
    stages = [StageId(f"{number:056x}") for number in range(1000)]
    left_out = []

    def describe(stage_id):
        raise RegistryUnavailableError("503", status=503)

    with pytest.raises(RegistryUnavailableError):
        list(describe_all(describe, stages, parallel=2, on_left_out=lambda *told: left_out.append(told)))
    assert 99 == len(left_out)


def test_damaged_stages_between_sound_ones_do_not_stop():
    """x1: however many there are."""
    stages = [StageId(f"{number:056x}") for number in range(400)]

    def describe(stage_id):
        if int(stage_id.digest, 16) % 50:
            raise RegistryUnavailableError("500", status=500)
        return stage_id

    assert stages[::50] == list(describe_all(describe, stages, parallel=2, on_left_out=lambda *_: None))


def test_what_arrives_altered_is_asked_for_again():
    """x1: a stage is left out after its retries, not before."""
    errors = [DigestMismatchError("altered"), DigestMismatchError("altered")]
    naps: list[float] = []

    def describe(stage_id):
        if errors:
            raise errors.pop()
        return stage_id

    assert IDS[0] == try_again(describe, IDS[0], sleep=naps.append)
    assert 2 == len(naps)
    with pytest.raises(BrokenStageError):
        try_again(failing_at(IDS[0], BrokenStageError("gone")), IDS[0], sleep=naps.append)
    assert 2 == len(naps)
