"""What Flower, events and remote commands show of a request to start a run: its words without its secrets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from celery.worker.request import Request

from stagefleet.redaction import masked_url, quoted

__all__ = ["MaskedRequest", "shown_arguments"]

_MOST_ENTRIES = 3
_SHOWN_CHARACTERS = 1000


def shown_arguments(named: Mapping[str, Any]) -> str:
    """Show the arguments of a request, as Celery shows those of tasks.

    A URL to call back is shown by its host: path and query may hold a token.

    Args:
        named: As they came; nothing of them has been checked.
    """
    shown = {quoted(name)[1:-1]: _shown(value) for name, value in named.items()}
    return repr(shown)[:_SHOWN_CHARACTERS]


def _shown(value: Any) -> Any:
    if isinstance(value, bool | int | float | None):
        return value
    if isinstance(value, str):
        return masked_url(value) if "://" in value else quoted(value)[1:-1]
    if isinstance(value, Sequence):
        more = len(value) - _MOST_ENTRIES
        return [*map(_shown, value[:_MOST_ENTRIES]), *([f"and {more} more"] if more > 0 else ())]
    return "..."


class MaskedRequest(Request):  # type: ignore[misc]  # Celery ships no types
    """A task's request that tells who asks a worker no more than events do."""

    def info(self, safe: bool = False) -> dict[str, Any]:  # noqa: ARG002, FBT001, FBT002 - Celery's signature
        """Describe it; the arguments as they may be shown."""
        described: dict[str, Any] = super().info(safe=True)
        return described
