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
    from stagefleet.client import Fleet, Plan, RemoteCallback
    from stagefleet.errors import StagefleetError, StorageStateChangedError
    from stagefleet.images import ImageInfo, StageDescription
    from stagefleet.in_use_policy import InUsePolicy
    from stagefleet.manager.changed_state_retry import retry_on_changed_state
    from stagefleet.names import Digest, Reference, Repository, StageId
    from stagefleet.project import Project
    from stagefleet.runs.models import ErrorInfo, ItemState, Outcome, Run, RunState
    from stagefleet.settings import Settings, load_settings
    from stagefleet.storages.last_used import UsedImage

__all__ = [
    "Digest",
    "ErrorInfo",
    "Fleet",
    "ImageInfo",
    "InUsePolicy",
    "ItemState",
    "Outcome",
    "Plan",
    "Project",
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
    "UsedImage",
    "__version__",
    "load_settings",
    "retry_on_changed_state",
]

_HOMES = {
    "__version__": "stagefleet.version",
    "Digest": "stagefleet.names",
    "ErrorInfo": "stagefleet.runs.models",
    "Fleet": "stagefleet.client",
    "ImageInfo": "stagefleet.images",
    "ItemState": "stagefleet.runs.models",
    "Outcome": "stagefleet.runs.models",
    "Plan": "stagefleet.client",
    "Reference": "stagefleet.names",
    "RemoteCallback": "stagefleet.client",
    "Repository": "stagefleet.names",
    "Project": "stagefleet.project",
    "Run": "stagefleet.runs.models",
    "RunState": "stagefleet.runs.models",
    "Settings": "stagefleet.settings",
    "StageDescription": "stagefleet.images",
    "StageId": "stagefleet.names",
    "StagefleetError": "stagefleet.errors",
    "StorageStateChangedError": "stagefleet.errors",
    "InUsePolicy": "stagefleet.in_use_policy",
    "UsedImage": "stagefleet.storages.last_used",
    "load_settings": "stagefleet.settings",
    "retry_on_changed_state": "stagefleet.manager.changed_state_retry",
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
