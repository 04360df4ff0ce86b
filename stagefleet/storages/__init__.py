"""Storages of stages: one Protocol, and one implementation per medium."""

from stagefleet.storages.base import StageStorage
from stagefleet.storages.id_list import StageIdList
from stagefleet.storages.registry import RegistryStorage

__all__ = ["RegistryStorage", "StageIdList", "StageStorage"]
