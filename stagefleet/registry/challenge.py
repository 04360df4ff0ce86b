"""Parser of `WWW-Authenticate`: the challenges of a registry's 401."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["Challenge", "parse_challenges"]

_LIMIT_CHARACTERS = 64 * 1024  # more than any HTTP library lets through in one header line

# Possessive quantifiers: the text is untrusted, so no pattern may backtrack. They
# follow single characters alone: after a group, Python before 3.11.5 matches wrongly (python/cpython#106052).
_SEPARATORS = re.compile(r"[ \t,]*+")
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]++")
_EQUALS = re.compile(r"[ \t]*+=[ \t]*+")
_QUOTED = re.compile(r'"([^"\\]*+(?:\\.[^"\\]*+)*)"', re.DOTALL)
_TOKEN68 = re.compile(r"[ \t]++([A-Za-z0-9._~+/-]++=*+)[ \t]*+(?=,|$)")
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Challenge:
    """One authentication scheme that a registry offers.

    Attributes:
        scheme: In lower case: `basic`, `bearer`, ...
        parameters: By name in lower case; the first of a repeated name counts.
        token68: The token that replaces parameters in schemes such as `negotiate`, "" otherwise.
    """

    scheme: str
    parameters: Mapping[str, str] = field(default_factory=dict)
    token68: str = ""


def parse_challenges(header: str) -> list[Challenge]:
    """Parse a `WWW-Authenticate` header, also several joined by commas.

    A comma separates both challenges and the parameters of one, so a word is a parameter if `=` and a value
    follow it, and a scheme otherwise. Malformed parts are skipped. Linear in the header's length.

    Args:
        header: The value of the header, from an untrusted server.

    Returns:
        The challenges in the header's order. Source: RFC 9110, sections 11.2 to 11.6.1.
    """
    header = header[:_LIMIT_CHARACTERS]
    found: list[Challenge] = []
    parameters: dict[str, str] = {}
    position = _after_separators(header, 0)
    while position < len(header):
        word = _TOKEN.match(header, position)
        if word is None:
            position = _next_element(header, position)
            continue
        equals = _EQUALS.match(header, word.end())
        if equals is not None:
            value, position = _read_value(header, equals.end())
            if value is not None:
                parameters.setdefault(word[0].lower(), value)
            continue
        parameters = {}  # a new dictionary: the previous challenge keeps its own
        token68 = _TOKEN68.match(header, word.end())
        found.append(Challenge(word[0].lower(), parameters, token68[1] if token68 else ""))
        position = _after_separators(header, (token68 or word).end())
    return found


def _read_value(header: str, position: int) -> tuple[str | None, int]:
    """Return the value at `position`, None if there is none, and the position of the next word."""
    quoted = _QUOTED.match(header, position)
    if quoted is not None:
        return _ESCAPED.sub(r"\1", quoted[1]), _after_separators(header, quoted.end())
    if header.startswith('"', position):
        return None, len(header)  # unclosed: the start of the next word is unknown
    word = _TOKEN.match(header, position)
    if word is None:
        return None, _next_element(header, position)
    return word[0], _after_separators(header, word.end())


def _after_separators(header: str, position: int) -> int:
    match = _SEPARATORS.match(header, position)
    assert match is not None  # it also matches an empty string
    return match.end()


def _next_element(header: str, position: int) -> int:
    comma = header.find(",", position)
    return len(header) if comma < 0 else _after_separators(header, comma)
