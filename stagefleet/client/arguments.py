"""What runs take by name."""

from __future__ import annotations

from typing import TypedDict

__all__ = ["HostArguments", "RunArguments"]


class RunArguments(TypedDict, total=False):
    """What every run takes by name; as in `for_each_copy_stage`.

    Attributes:
        parallel: Items at once; from the settings if None.
        idempotency_key: The same work under the same key is done once.
        detach: Return at once.
        missing_ok: Take a repository that does not exist for empty, instead of `RepositoryNotFoundError`.
    """

    parallel: int | None
    idempotency_key: str | None
    detach: bool
    missing_ok: bool


class HostArguments(RunArguments, total=False):
    """What a run takes by name whose storage may be a Docker Engine.

    Attributes:
        host: Whose engine; this host's if None. Refused where the storage is none.
    """

    host: str | None
