"""Parser of the `Link` header: the next page of a list (RFC 8288, section 3)."""

from __future__ import annotations

import re

__all__ = ["next_link"]

_LIMIT_CHARACTERS = 64 * 1024  # more than any HTTP library lets through in one header line

# Possessive quantifiers: the text is untrusted, so no pattern may backtrack. They
# follow single characters alone: after a group, Python before 3.11.5 matches wrongly (python/cpython#106052).
_TARGET = re.compile(r"[ \t,]*+<([^<>]*+)>")
_PARAMETER = re.compile(
    r"[ \t]*+;[ \t]*+(?:([!#$%&'*+.^_`|~0-9A-Za-z-]++)"
    r'[ \t]*+(?:=[ \t]*+(?:"([^"\\]*+(?:\\.[^"\\]*+)*)"|([^\s",;]*+)))?)?'
)


def next_link(header: str) -> str | None:
    """Return the target of the first link with the relation `next`, None if there is none.

    A parameter never replaces the target, whatever its name; the first of a repeated `rel` counts.

    Args:
        header: The header's value, from an untrusted server.
    """
    header, position = header[:_LIMIT_CHARACTERS], 0
    while (target := _TARGET.match(header, position)) is not None:
        position = target.end()
        relation = None
        while (parameter := _PARAMETER.match(header, position)) is not None:
            position = parameter.end()
            name, quoted, token = parameter.groups()
            if relation is None and name is not None and name.lower() == "rel":
                relation = quoted if quoted is not None else token or ""
        if relation is not None and "next" in relation.lower().split():
            return target[1]
        comma = header.find(",", position)
        if comma < 0:
            return None
        position = comma
    return None
