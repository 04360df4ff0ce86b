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
    from stagefleet.manager.changed_state import retry_on_changed_state
    from stagefleet.names import Digest, Reference, Repository, StageId
    from stagefleet.roles import Roles
    from stagefleet.runs.model import ErrorInfo, ItemState, Outcome, Run, RunState
    from stagefleet.settings import Settings, load_settings
    from stagefleet.stages import ImageInfo, StageDescription
    from stagefleet.storages.last_used import UsedImage
    from stagefleet.use_policy import UsePolicy

__all__ = [
    "Digest",
    "ErrorInfo",
    "Fleet",
    "ImageInfo",
    "ItemState",
    "Outcome",
    "Plan",
    "Reference",
    "RemoteCallback",
    "Repository",
    "Roles",
    "Run",
    "RunState",
    "Settings",
    "StageDescription",
    "StageId",
    "StagefleetError",
    "StorageStateChangedError",
    "UsePolicy",
    "UsedImage",
    "load_settings",
    "retry_on_changed_state",
]

_HOMES = {
    "Digest": "stagefleet.names",
    "ErrorInfo": "stagefleet.runs.model",
    "Fleet": "stagefleet.client",
    "ImageInfo": "stagefleet.stages",
    "ItemState": "stagefleet.runs.model",
    "Outcome": "stagefleet.runs.model",
    "Plan": "stagefleet.client",
    "Reference": "stagefleet.names",
    "RemoteCallback": "stagefleet.client",
    "Repository": "stagefleet.names",
    "Roles": "stagefleet.roles",
    "Run": "stagefleet.runs.model",
    "RunState": "stagefleet.runs.model",
    "Settings": "stagefleet.settings",
    "StageDescription": "stagefleet.stages",
    "StageId": "stagefleet.names",
    "StagefleetError": "stagefleet.errors",
    "StorageStateChangedError": "stagefleet.errors",
    "UsePolicy": "stagefleet.use_policy",
    "UsedImage": "stagefleet.storages.last_used",
    "load_settings": "stagefleet.settings",
    "retry_on_changed_state": "stagefleet.manager.changed_state",
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
