"""Storage manager: one module per verb."""

from stagefleet.manager.item_result import ItemResult
from stagefleet.manager.manager import StageManager
from stagefleet.manager.remembered_stages import RememberedStages

__all__ = ["ItemResult", "RememberedStages", "StageManager"]
