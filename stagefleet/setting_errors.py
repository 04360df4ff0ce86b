"""Messages about invalid settings."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from pydantic import ValidationError

from stagefleet.redaction import quoted

__all__ = ["describe_setting_error"]

_KEY_CHARACTERS = 300
_KEY_MARK = "[key]"
"""The last part of pydantic's location of an error if the key itself is wrong."""


def describe_setting_error(error: ValidationError, path: Path, variables: Iterable[str]) -> str:
    """Describe the first error in one line: the key and the reason, never the value, which may be secret.

    Args:
        error: The error that pydantic raised.
        path: The file that settings were read from.
        variables: The names of the environment variables.
    """
    first = error.errors(include_url=False, include_input=False)[0]
    key = [str(part) for part in first["loc"] if part != _KEY_MARK]
    return f"settings ({_source(path, variables, key)}): {_reason(first['type'], first['msg'], key)}"


def _reason(kind: str, message: str, key: Sequence[str]) -> str:
    """Describe the error without pydantic's terms."""
    if kind == "extra_forbidden" and key[0] == "registries":
        return (
            'there is no such setting: see that it is spelled right, and the host quoted: [registries."HOST"]'
        )
    if kind == "extra_forbidden":
        return "there is no such setting: see that it is spelled right"
    return message.removeprefix("Value error, ")


def _source(path: Path, variables: Iterable[str], key: Sequence[str]) -> str:
    """Name the source of a value: its variable, a variable with a whole section as JSON, or the file."""
    given = {variable.upper(): variable for variable in variables}
    for length in range(len(key), 0, -1):
        variable = given.get(f"STAGEFLEET_{'__'.join(key[:length])}".upper())
        if variable is not None:
            return f"environment, {variable}"
    name = ".".join(key)
    return f"{path}, key {quoted(name, limit=_KEY_CHARACTERS)[1:-1]}"
