"""Sources of settings: names of variables, the file, and the source of each value."""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard, get_args, get_origin

from stagefleet.errors import SettingsError
from stagefleet.redaction import quoted

if TYPE_CHECKING:
    from pydantic import BaseModel

SETTINGS_FILE_VARIABLE = "STAGEFLEET_CONFIG"
_DEFAULT_FILE = "stagefleet.toml"

_PREFIX = "STAGEFLEET_"
_KEY_CHARACTERS = 300
_MOST_PLACES = 4
"""Most places that are named for one value."""
_BARE_HOST = re.compile(r"^\s*\[?\s*registries\.[^\"'\s\]]*:", re.MULTILINE)
_NOT_SETTINGS = frozenset(
    {SETTINGS_FILE_VARIABLE, "STAGEFLEET_IMAGE", "STAGEFLEET_SECRETS", "STAGEFLEET_USER"}
)
"""Variables with our prefix that are no settings: the settings file's path, and those of deploy/ and CI."""


def read_file(path: Path) -> dict[str, Any]:
    """Read a TOML file, or JSON if its name ends so, with or without a byte order mark; return {} if absent.

    `OSError` if the file cannot be read, `ValueError` if it is not UTF-8, or not valid TOML or JSON.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        return {}
    try:
        found: dict[str, Any] = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        if _BARE_HOST.search(text) is None:
            raise
        raise ValueError(f'{error}; a host has to be quoted: [registries."HOST:PORT"]') from None
    return found


def environment_document(model: type[BaseModel], environment: Mapping[str, str]) -> dict[str, Any]:
    """Read settings from environment variables, as a document for the model.

    A variable's name is `STAGEFLEET_` and the setting's path, its parts joined by `__`, in any case. The
    value of a table or a list is JSON; a variable for a part of it overrides that part. Empty variables
    count as unset, as CI systems set undefined variables to the empty string. `SettingsError` names the
    variable of a table or a list whose value is not JSON.
    """
    document: dict[str, Any] = {}
    paths = {
        name: tuple(name[len(_PREFIX) :].lower().split("__"))
        for name, value in environment.items()
        if value and name.upper().startswith(_PREFIX)
    }
    for name, path in sorted(paths.items(), key=lambda entry: len(entry[1])):
        if path[0] not in model.model_fields:
            continue
        value: Any = environment[name]
        if _holds_several(model, path):
            value = _read_json(name, value)
        for key in reversed(path):
            value = {key: value}
        document = merge(document, value)
    return document


def _holds_several(model: Any, path: Iterable[str]) -> bool:
    """Return True if the value at a path is a table or a list."""
    for key in path:
        if _is_section(model):
            field = model.model_fields.get(key)
            model = None if field is None else field.annotation
        else:
            model = get_args(model)[-1] if get_origin(model) is dict else None
    return _is_section(model) or get_origin(model) in {dict, tuple, list}


def _is_section(model: Any) -> TypeGuard[type[BaseModel]]:
    return hasattr(model, "model_fields")


def _read_json(variable: str, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        raise SettingsError(
            f"settings (environment, {variable}): its value is no JSON: write a list as "
            '["A", "B"], a table as {"NAME": VALUE}'
        ) from None


def merge(*documents: Mapping[str, Any]) -> dict[str, Any]:
    """Merge documents of nested tables; a later one overrides the values of those before it."""
    merged: dict[str, Any] = {}
    for document in documents:
        for key, value in document.items():
            old = merged.get(key)
            if isinstance(old, Mapping) and isinstance(value, Mapping):
                merged[key] = merge(old, value)
            else:
                merged[key] = value
    return merged


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
        if _is_section(section):
            yield from ((name, *rest) for rest in setting_paths(section))
        else:
            yield (name,)


def unknown_variables(model: type[BaseModel]) -> dict[str, str | None]:
    """Find variables of ours that are no setting, each with the closest known name, or None."""
    paths = list(setting_paths(model))
    known = {variable_of(path[:length]) for path in paths for length in range(1, len(path) + 1)}
    tables = tuple(variable_of(path) + "__" for path in paths if len(path) == 1)
    unknown = [
        name
        for name in os.environ
        if (upper := name.upper()).startswith(_PREFIX)
        and upper not in known | _NOT_SETTINGS
        and not upper.startswith(tables)
    ]
    return {
        name: next(iter(get_close_matches(name.upper(), known, 1, 0.87)), None) for name in sorted(unknown)
    }


def source_of(
    path: tuple[str, ...], overrides: Mapping[str, Any], document: Mapping[str, Any], file: Path
) -> str:
    """Describe the source of a setting's value; empty environment variables count as unset."""
    if value_at(overrides, path) is not None:
        return "command line"
    given = {name.upper(): name for name, value in os.environ.items() if value}
    for length in range(len(path), 0, -1):
        if name := given.get(variable_of(path[:length])):
            return name
    begin = variable_of(path) + "__"
    if inside := sorted(name for upper, name in given.items() if upper.startswith(begin)):
        return ", ".join(inside)
    return "default" if value_at(document, path) is None else str(file)


def name_places(
    key: Sequence[str],
    model: type[BaseModel],
    overrides: Mapping[str, Any],
    document: Mapping[str, Any],
    file: Path,
) -> str:
    """Name the places in which a value stands: the option, the variables, or the file with its key.

    Of a table, or of a value that is missing, they are all that have a part of the table; else the one that
    counts.
    """
    given = {name: value for name, value in os.environ.items() if value}
    variables = sorted(given, key=lambda name: -name.count("__"))
    read = ((name, environment_document(model, {name: given[name]})) for name in variables)
    sources = {"command line": overrides, **dict(read), str(file): document}
    places, depth = [str(file)], len(key)
    while depth:
        if found := [name for name, source in sources.items() if value_at(source, key[:depth]) is not None]:
            places = found
            break
        depth -= 1
    if depth == len(key) and not isinstance(value_at(sources[places[0]], key), Mapping):
        del places[1:]
    setting = quoted(".".join(key), limit=_KEY_CHARACTERS)[1:-1]
    told = [f"environment, {name}" if name in given else name for name in sorted(places[:_MOST_PLACES])]
    is_said = len(places) == 1 and places[0].upper() == variable_of(key)
    return " and ".join(told) + ("" if is_said else f", key {setting}")


def value_at(document: Mapping[str, Any], path: Iterable[str]) -> Any:
    """Return the value at a path of nested tables; None if it is missing."""
    found: Any = document
    for key in path:
        found = found.get(key) if isinstance(found, Mapping) else None
    return found


def settings_file() -> Path:
    """Return the path of the settings file; it may not exist."""
    return Path(os.environ.get(SETTINGS_FILE_VARIABLE) or _DEFAULT_FILE)
