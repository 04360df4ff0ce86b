"""What is wrong with settings, told to the person who wrote them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from pydantic import ValidationError

from stagefleet.redaction import quoted

__all__ = ["describe_mistake"]

_KEY_CHARACTERS = 300


def describe_mistake(error: ValidationError, path: Path, variables: Iterable[str]) -> str:
    """The first mistake, in one line: where it is, and what; never the value, which may be secret.

    Args:
        error: What pydantic found.
        path: The file that settings were read from.
        variables: The names of the environment's variables.
    """
    first = error.errors(include_url=False, include_input=False)[0]
    where = _place(path, variables, [str(part) for part in first["loc"]])
    return f"settings ({where}): {_reason(first['type'], first['msg'])}"


def _reason(kind: str, message: str) -> str:
    """What is wrong, in words for people who do not know what pydantic is."""
    if kind == "extra_forbidden":
        return "there is no such setting: see that it is spelled right"
    return message.removeprefix("Value error, ")


def _place(path: Path, variables: Iterable[str], key: Sequence[str]) -> str:
    """Where a value came from: its variable, one that holds a whole section as JSON, or the file."""
    given = {variable.upper(): variable for variable in variables}
    for length in range(len(key), 0, -1):
        variable = given.get(f"STAGEFLEET_{'__'.join(key[:length])}".upper())
        if variable is not None:
            return f"environment, {variable}"
    name = ".".join(key)
    return f"{path}, key {quoted(name, limit=_KEY_CHARACTERS)[1:-1]}"
