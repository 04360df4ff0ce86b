"""Where settings come from: names of variables, the text of a file, and which of them a value is from."""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pydantic import BaseModel

__all__ = [
    "SETTINGS_FILE_VARIABLE",
    "read_file",
    "setting_paths",
    "settings_file",
    "source_of",
    "unknown_variables",
    "value_at",
    "variable_of",
]

SETTINGS_FILE_VARIABLE = "STAGEFLEET_CONFIG"
_DEFAULT_FILE = "stagefleet.toml"

_PREFIX = "STAGEFLEET_"
_NOT_SETTINGS = frozenset(
    {SETTINGS_FILE_VARIABLE, "STAGEFLEET_IMAGE", "STAGEFLEET_SECRETS", "STAGEFLEET_USER"}
)
"""Names under our prefix that are read elsewhere: the settings file's, and those of deploy/ and CI jobs."""


def read_file(path: Path) -> dict[str, Any]:
    """Read a TOML file, or a JSON one by its ending, with a byte order mark or without; nothing if absent.

    Raises:
        OSError: It cannot be read.
        UnicodeDecodeError: It is no UTF-8 text.
        ValueError: It is no TOML, or no JSON.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        return {}
    found: dict[str, Any] = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    return found


def variable_of(path: Iterable[str]) -> str:
    """Name the variable of a setting.

    >>> variable_of(("runs", "parallel"))
    'STAGEFLEET_RUNS__PARALLEL'
    """
    return _PREFIX + "__".join(path).upper()


def setting_paths(model: type[BaseModel]) -> Iterator[tuple[str, ...]]:
    """List every setting by its path; of a table whose keys a person chooses, the table alone."""
    for name, field in model.model_fields.items():
        section = field.annotation
        if isinstance(section, type) and issubclass(section, BaseModel):
            yield from ((name, *rest) for rest in setting_paths(section))
        else:
            yield (name,)


def unknown_variables(model: type[BaseModel], names: Iterable[str]) -> dict[str, str | None]:
    """Find variables under our prefix that are no setting's.

    Args:
        model: The settings.
        names: Of the environment.

    Returns:
        The names, each with the one that was probably meant, or None.
    """
    known: set[str] = set()
    for path in setting_paths(model):
        known |= {variable_of(path[:length]) for length in range(1, len(path) + 1)}
    tables = tuple(variable_of(path) + "__" for path in setting_paths(model) if len(path) == 1)
    unknown = [
        name
        for name in names
        if (upper := name.upper()).startswith(_PREFIX)
        and upper not in known | _NOT_SETTINGS
        and not upper.startswith(tables)
    ]
    return {
        name: next(iter(get_close_matches(name.upper(), known, 1, 0.87)), None) for name in sorted(unknown)
    }


def source_of(
    path: tuple[str, ...],
    overrides: Mapping[str, Any],
    environment: Mapping[str, str],
    document: Mapping[str, Any],
    file: Path,
) -> str:
    """Say where the value of a setting comes from.

    Args:
        path: Of the setting.
        overrides: Of the command line.
        environment: The variables; those that are empty count as unset.
        document: What the file holds.
        file: Its path.
    """
    if value_at(overrides, path) is not None:
        return "command line"
    given = {name.upper(): name for name, value in environment.items() if value}
    for length in range(len(path), 0, -1):
        if name := given.get(variable_of(path[:length])):
            return name
    begin = variable_of(path) + "__"
    if inside := sorted(name for upper, name in given.items() if upper.startswith(begin)):
        return ", ".join(inside)
    return "default" if value_at(document, path) is None else str(file)


def value_at(document: Mapping[str, Any], path: Iterable[str]) -> Any:
    """Give what stands at a path of nested tables, None for nothing."""
    found: Any = document
    for key in path:
        found = found.get(key) if isinstance(found, Mapping) else None
    return found


def settings_file() -> Path:
    """Give the file that settings are read from, whether or not it is there."""
    return Path(os.environ.get(SETTINGS_FILE_VARIABLE) or _DEFAULT_FILE)
