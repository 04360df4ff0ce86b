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

_HOMES = {
    "__version__": "stagefleet.runs.versions",
    "CacheOperation": "stagefleet.operations.publish",
    "CopyOperation": "stagefleet.operations.copy",
    "DeleteOperation": "stagefleet.operations.delete",
    "DescribeOperation": "stagefleet.operations.describe",
    "FetchOperation": "stagefleet.operations.fetch",
    "PublishOperation": "stagefleet.operations.publish",
    "TakeOperation": "stagefleet.operations.publish",
    "VerifyOperation": "stagefleet.operations.verify",
    "Operation": "stagefleet.operations.base",
    "Digest": "stagefleet.names",
    "ErrorInfo": "stagefleet.runs.models",
    "Fleet": "stagefleet.fleet.fleet",
    "ImageInfo": "stagefleet.images",
    "ItemState": "stagefleet.runs.models",
    "Outcome": "stagefleet.runs.models",
    "Plan": "stagefleet.operations.base",
    "Reference": "stagefleet.names",
    "RemoteCallback": "stagefleet.fleet.callbacks",
    "Repository": "stagefleet.names",
    "Project": "stagefleet.project_addresses",
    "Run": "stagefleet.runs.models",
    "RunState": "stagefleet.runs.models",
    "Settings": "stagefleet.settings",
    "StageDescription": "stagefleet.images",
    "StageId": "stagefleet.names",
    "StagefleetError": "stagefleet.errors",
    "StorageStateChangedError": "stagefleet.errors",
    "InUsePolicy": "stagefleet.operations.delete",
    "UsedImage": "stagefleet.shared_state.best_effort",
    "load_settings": "stagefleet.settings",
    "retry_on_changed_state": "stagefleet.projects.lookup",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
