"""Work that is done if it can be: errors of storages become warnings, and those of our own side do not."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from stagefleet import errors

_LOGGER = logging.getLogger(__name__)

OWN_ERRORS = (
    errors.EngineUnreachableError,
    errors.ItemCancelledError,
    errors.ItemPostponedError,
    errors.LeaseLostError,
    errors.RedisConfigurationError,
    errors.RedisUnreachableError,
)
"""Errors of our own side: not a storage's fault, and another storage would not help."""


class CaughtFailure:
    """Error inside a `errors_as_warnings` block; None without one."""

    error: errors.StagefleetError | None = None


@contextmanager
def errors_as_warnings(
    what: str,
    *,
    reraise: tuple[type[errors.StagefleetError], ...] = (),
    quiet: tuple[type[errors.StagefleetError], ...] = (),
) -> Iterator[CaughtFailure]:
    """Turn a storage's error into a warning.

    Args:
        what: The attempted operation, for the warning.
        reraise: Errors that are raised, besides those of our own side.
        quiet: Errors that are expected: a debug record instead of a warning.
    """
    failure = CaughtFailure()
    try:
        yield failure
    except errors.StagefleetError as error:
        if isinstance(error, OWN_ERRORS + reraise):
            raise
        _LOGGER.log(logging.DEBUG if isinstance(error, quiet) else logging.WARNING, "%s: %s", what, error)
        failure.error = error
