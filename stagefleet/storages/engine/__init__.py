"""A Docker Engine as a storage of stages, and as the target of fetches."""

from stagefleet.storages.engine.connection import Engine
from stagefleet.storages.engine.images import StageImages
from stagefleet.storages.engine.records import EngineRecordStore
from stagefleet.storages.engine.storage import EngineStorage

__all__ = ["Engine", "EngineRecordStore", "EngineStorage", "StageImages"]
