"""Sources of settings: names of variables, the file, and the source of each value."""

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
"""Variables with our prefix that are no settings: the settings file's path, and those of deploy/ and CI."""


def read_file(path: Path) -> dict[str, Any]:
    """Read a TOML file, or JSON if its name ends so, with or without a byte order mark; return {} if absent.

    Raises:
        OSError: The file cannot be read.
        UnicodeDecodeError: The file is not UTF-8.
        ValueError: The file is not valid TOML or JSON.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        return {}
    found: dict[str, Any] = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    return found


def variable_of(path: Iterable[str]) -> str:
    """Return the name of a setting's environment variable.

    >>> variable_of(("runs", "parallel"))
    'STAGEFLEET_RUNS__PARALLEL'
    """
    return _PREFIX + "__".join(path).upper()


def setting_paths(model: type[BaseModel]) -> Iterator[tuple[str, ...]]:
    """List the path of every setting; a table whose keys the user chooses counts as one setting."""
    for name, field in model.model_fields.items():
        section = field.annotation
        if isinstance(section, type) and issubclass(section, BaseModel):
            yield from ((name, *rest) for rest in setting_paths(section))
        else:
            yield (name,)


def unknown_variables(model: type[BaseModel], names: Iterable[str]) -> dict[str, str | None]:
    """Find variables with our prefix that belong to no setting.

    Args:
        model: The settings.
        names: The names of the environment variables.

    Returns:
        The unknown names, each with the closest known name, or None.
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
    """Describe the source of a setting's value.

    Args:
        path: The setting's path.
        overrides: Values from the command line.
        environment: The environment variables; empty ones count as unset.
        document: The content of the file.
        file: The path of the file.
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
    """Return the value at a path of nested tables; None if it is missing."""
    found: Any = document
    for key in path:
        found = found.get(key) if isinstance(found, Mapping) else None
    return found


def settings_file() -> Path:
    """Return the path of the settings file; it may not exist."""
    return Path(os.environ.get(SETTINGS_FILE_VARIABLE) or _DEFAULT_FILE)
