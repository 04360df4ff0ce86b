"""Records, which are kept beside stages in a repository, and the grammar of their tags."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stagefleet.records.ids import RecordId, RecordKind
    from stagefleet.records.models import (
        ClientId,
        CustomTag,
        ImageMetadata,
        ImportMetadata,
        LastCleanup,
        LockServer,
        ManagedImage,
        Record,
        RejectedStage,
    )

__all__ = [
    "ClientId",
    "CustomTag",
    "ImageMetadata",
    "ImportMetadata",
    "LastCleanup",
    "LockServer",
    "ManagedImage",
    "Record",
    "RecordId",
    "RecordKind",
    "RejectedStage",
]


def __getattr__(name: str) -> Any:
    """Load a name at its first use: every client knows rejections and placeholders, and few read records."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.models"), name)  # which has those of `ids`, too
