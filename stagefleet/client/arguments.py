"""Keyword arguments that runs share."""

from __future__ import annotations

from typing import TypedDict

__all__ = ["HostArguments", "RunArguments"]


class RunArguments(TypedDict, total=False):
    """Keyword arguments of every run; see `for_each_copy_stage`.

    Attributes:
        parallel: Items at once; from the settings if None.
        idempotency_key: Calls with the same key start one run.
        detach: Return at once.
        missing_ok: Treat a missing repository as empty, instead of raising `RepositoryNotFoundError`.
    """

    parallel: int | None
    idempotency_key: str | None
    detach: bool
    missing_ok: bool


class HostArguments(RunArguments, total=False):
    """Keyword arguments of a run on a storage that may be a Docker Engine.

    Attributes:
        host: The host of the engine; this host if None. An error for a repository.
    """

    host: str | None
