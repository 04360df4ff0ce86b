from __future__ import annotations

from hypothesis import given, strategies as st

from stagefleet.backoff import Backoff, jittered

SECONDS = st.floats(0.001, 1e6)


@given(first=SECONDS, longest=SECONDS, failures=st.integers(0, 10_000))
def test_a_pause_doubles_up_to_its_limit_and_is_never_less_than_half(first, longest, failures):
    whole = min(longest, first * 2.0 ** min(max(failures, 1) - 1, 30))
    assert whole / 2 <= Backoff(first, longest).pause_seconds(failures) <= whole


@given(seconds=SECONDS, share=st.floats(0, 1))
def test_jitter_stays_between_its_share_and_the_whole(seconds, share):
    assert seconds * share <= jittered(seconds, share=share) <= seconds


def test_two_clients_do_not_wait_alike():
    assert 1 < len({jittered(1.0) for _ in range(20)})
