"""Errors of caches that become warnings."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from stagefleet.errors import (
    EngineUnreachableError,
    ItemCancelledError,
    ItemPostponedError,
    LeaseLostError,
    RedisConfigurationError,
    RedisUnreachableError,
    StagefleetError,
)

__all__ = ["OURS", "Mishap", "warned"]

OURS = (
    EngineUnreachableError,
    ItemCancelledError,
    ItemPostponedError,
    LeaseLostError,
    RedisConfigurationError,
    RedisUnreachableError,
)
"""Errors of our own side: not a storage's fault, and another storage would not help."""

_LOGGER = logging.getLogger(__name__)


class Mishap:
    """Error inside a `warned` block.

    Attributes:
        error: The error, None without one.
    """

    error: StagefleetError | None = None


@contextmanager
def warned(
    what: str,
    *,
    unless: tuple[type[StagefleetError], ...] = (),
    quiet: tuple[type[StagefleetError], ...] = (),
) -> Iterator[Mishap]:
    """Turn a storage's error into a warning.

    Args:
        what: The attempted operation, for the warning.
        unless: Errors that are raised, besides those of our own side.
        quiet: Errors that are expected: a debug record instead of a warning.
    """
    mishap = Mishap()
    try:
        yield mishap
    except StagefleetError as error:
        if isinstance(error, OURS + unless):
            raise
        _LOGGER.log(logging.DEBUG if isinstance(error, quiet) else logging.WARNING, "%s: %s", what, error)
        mishap.error = error
