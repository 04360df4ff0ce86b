"""Storage manager: one module per verb."""

from stagefleet.manager.manager import StageManager
from stagefleet.manager.memory import StageMemory
from stagefleet.manager.produced import Produced

__all__ = ["Produced", "StageManager", "StageMemory"]
