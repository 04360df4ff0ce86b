"""Where stages are kept: one Protocol, and a storage per medium."""

from stagefleet.storages.base import StageStorage
from stagefleet.storages.id_list import StageIdList
from stagefleet.storages.registry import RegistryStorage

__all__ = ["RegistryStorage", "StageIdList", "StageStorage"]
