"""Stagefleet keeps the build stages of container images in registries, as a fleet.

    from stagefleet import Fleet

    with Fleet.connect("redis://redis:6379/0") as fleet:
        run = fleet.for_each_copy_stage("registry.example/app", "mirror.example/app")

The names below are loaded when they are first used: `import stagefleet` alone costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stagefleet.errors import StagefleetError, StorageStateChangedError
    from stagefleet.fleet.callbacks import RemoteCallback
    from stagefleet.fleet.fleet import Fleet
    from stagefleet.images import ImageInfo, StageDescription
    from stagefleet.names import Digest, Reference, Repository, StageId
    from stagefleet.operations.base import Operation, Plan
    from stagefleet.operations.copy import CopyOperation
    from stagefleet.operations.delete import DeleteOperation, InUsePolicy
    from stagefleet.operations.describe import DescribeOperation
    from stagefleet.operations.fetch import FetchOperation
    from stagefleet.operations.publish import CacheOperation, PublishOperation, TakeOperation
    from stagefleet.operations.verify import VerifyOperation
    from stagefleet.project_addresses import Project
    from stagefleet.projects.lookup import retry_on_changed_state
    from stagefleet.runs.models import ErrorInfo, ItemState, Outcome, Run, RunState
    from stagefleet.settings import Settings, load_settings
    from stagefleet.shared_state.best_effort import UsedImage

__all__ = [
    "CacheOperation",
    "CopyOperation",
    "DeleteOperation",
    "DescribeOperation",
    "Digest",
    "ErrorInfo",
    "FetchOperation",
    "Fleet",
    "ImageInfo",
    "InUsePolicy",
    "ItemState",
    "Operation",
    "Outcome",
    "Plan",
    "Project",
    "PublishOperation",
    "Reference",
    "RemoteCallback",
    "Repository",
    "Run",
    "RunState",
    "Settings",
    "StageDescription",
    "StageId",
    "StagefleetError",
    "StorageStateChangedError",
    "TakeOperation",
    "UsedImage",
    "VerifyOperation",
    "__version__",
    "load_settings",
    "retry_on_changed_state",
]

_NAMES = {
    "stagefleet.errors": ("StagefleetError", "StorageStateChangedError"),
    "stagefleet.fleet.callbacks": ("RemoteCallback",),
    "stagefleet.fleet.fleet": ("Fleet",),
    "stagefleet.images": ("ImageInfo", "StageDescription"),
    "stagefleet.names": ("Digest", "Reference", "Repository", "StageId"),
    "stagefleet.operations.base": ("Operation", "Plan"),
    "stagefleet.operations.copy": ("CopyOperation",),
    "stagefleet.operations.delete": ("DeleteOperation", "InUsePolicy"),
    "stagefleet.operations.describe": ("DescribeOperation",),
    "stagefleet.operations.fetch": ("FetchOperation",),
    "stagefleet.operations.publish": ("CacheOperation", "PublishOperation", "TakeOperation"),
    "stagefleet.operations.verify": ("VerifyOperation",),
    "stagefleet.project_addresses": ("Project",),
    "stagefleet.projects.lookup": ("retry_on_changed_state",),
    "stagefleet.runs.models": ("ErrorInfo", "ItemState", "Outcome", "Run", "RunState"),
    "stagefleet.runs.versions": ("__version__",),
    "stagefleet.settings": ("Settings", "load_settings"),
    "stagefleet.shared_state.best_effort": ("UsedImage",),
}
_HOMES = {name: home for home, names in _NAMES.items() for name in names}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
