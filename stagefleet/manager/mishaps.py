"""What may go wrong with a cache without anybody but the cache minding."""

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
"""Errors of our own side: no storage's fault, and no other storage would do better."""

_LOGGER = logging.getLogger(__name__)


class Mishap:
    """What went wrong inside `warned`.

    Attributes:
        error: The error, None if all went well.
    """

    error: StagefleetError | None = None


@contextmanager
def warned(
    what: str,
    *,
    unless: tuple[type[StagefleetError], ...] = (),
    quiet: tuple[type[StagefleetError], ...] = (),
) -> Iterator[Mishap]:
    """Make a warning of a storage's error.

    Args:
        what: What was tried, for the warning.
        unless: Errors that are raised all the same, besides those of our own side.
        quiet: Errors that are no news: no warning, but a line for who looks closely.
    """
    mishap = Mishap()
    try:
        yield mishap
    except StagefleetError as error:
        if isinstance(error, OURS + unless):
            raise
        _LOGGER.log(logging.DEBUG if isinstance(error, quiet) else logging.WARNING, "%s: %s", what, error)
        mishap.error = error
