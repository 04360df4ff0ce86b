"""Checks of our own messages' arguments, before a thread is used for them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from stagefleet.bounds import MAX_ITEMS

_RUN = re.compile(r"[0-9a-f]{8,64}")


def problem_of_run(positional: Sequence[Any], named: Mapping[str, Any]) -> str | None:
    """Return the reason why the arguments name no run; None if they do. Unknown ones are ignored."""
    run = named.get("run")
    if positional:
        return "it has positional arguments"
    if not isinstance(run, str) or _RUN.fullmatch(run) is None:
        return "its run is no run's id"
    return None


def problem_of_item(positional: Sequence[Any], named: Mapping[str, Any]) -> str | None:
    """Return the reason why the arguments name no item by run and index; None if they do."""
    index = named.get("index")
    if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < MAX_ITEMS:
        return problem_of_run(positional, named) or "its index is no item's number"
    return problem_of_run(positional, named)
