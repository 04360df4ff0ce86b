"""Challenges are read as RFC 9110 writes them, and whatever a hostile server writes raises nothing."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from stagefleet.registry.tokens import Challenge, parse_challenges


def test_a_registrys_challenge_is_read():
    header = (
        'Bearer realm="https://auth.docker.io/token",service="registry.docker.io",'
        'scope="repository:library/alpine:pull,push",error="invalid_token"'
    )

    expected = {
        "realm": "https://auth.docker.io/token",
        "service": "registry.docker.io",
        "scope": "repository:library/alpine:pull,push",
        "error": "invalid_token",
    }
    assert [Challenge("bearer", expected)] == parse_challenges(header)


def test_several_challenges_stand_in_one_header():
    # The example of RFC 9110, section 11.6.1, and two more kinds.
    header = (
        'Basic realm="simple", Newauth realm="apps", type=1, title="The \\"apps\\"", Negotiate YII=, NTLM'
    )

    assert [
        Challenge("basic", {"realm": "simple"}),
        Challenge("newauth", {"realm": "apps", "type": "1", "title": 'The "apps"'}),
        Challenge("negotiate", {}, "YII="),
        Challenge("ntlm"),
    ] == parse_challenges(header)


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("", []),
        (" , ,\t,", []),
        ("Basic", [Challenge("basic")]),
        ("Basic,Bearer", [Challenge("basic"), Challenge("bearer")]),
        ("BEARER REALM=x", [Challenge("bearer", {"realm": "x"})]),
        ('Bearer realm = "x" ,, service=\ty', [Challenge("bearer", {"realm": "x", "service": "y"})]),
        ('Bearer realm="a,b=c"', [Challenge("bearer", {"realm": "a,b=c"})]),
        ('Bearer realm=""', [Challenge("bearer", {"realm": ""})]),
        ('Bearer realm="first", realm="second"', [Challenge("bearer", {"realm": "first"})]),
        ('Bearer realm="a" service="b"', [Challenge("bearer", {"realm": "a", "service": "b"})]),
    ],
)
def test_what_the_grammar_leaves_open_is_read(header: str, expected: list[Challenge]):
    assert expected == parse_challenges(header)


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ('realm="nobody\'s"', []),
        ('Bearer realm="never closed, service=x', [Challenge("bearer")]),
        ("Bearer realm=<x>, service=y", [Challenge("bearer", {"service": "y"})]),
        (
            'Bearer realm="x", ((, Basic realm="z"',
            [Challenge("bearer", {"realm": "x"}), Challenge("basic", {"realm": "z"})],
        ),
        ("\x00\x01, é, Basic", [Challenge("basic")]),
    ],
)
def test_what_cannot_be_read_is_passed_over(header: str, expected: list[Challenge]):
    assert expected == parse_challenges(header)


@given(st.text(alphabet='Ab="\\, \t(é', max_size=60) | st.text())
def test_no_header_raises(header: str):
    for challenge in parse_challenges(header):
        assert challenge.scheme == challenge.scheme.lower()


_WORD = st.text(alphabet="abcxyz0189-_", min_size=1, max_size=8)


@given(
    st.lists(
        st.builds(Challenge, _WORD, st.dictionaries(_WORD, st.text(max_size=12), min_size=1, max_size=3)),
        max_size=4,
    )
)
def test_what_is_written_by_the_grammar_is_read_back(challenges: list[Challenge]):
    def quote(text: str) -> str:
        escaped = text.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'

    header = ", ".join(
        f"{challenge.scheme} "
        + ", ".join(f"{name}={quote(value)}" for name, value in challenge.parameters.items())
        for challenge in challenges
    )

    assert challenges == parse_challenges(header)


@pytest.mark.timeout(20)  # a pattern that goes back over what it has read would take hours
@pytest.mark.parametrize("piece", ['a="', "a=", 'a="\\', "a ", ",", '"', "((", "a b="])
def test_a_huge_header_is_read_in_one_pass_up_to_a_bound(piece: str):
    assert parse_challenges(piece * 70_000) == parse_challenges(piece * 100_000)
