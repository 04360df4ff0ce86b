"""Shared state of a run: data that one worker finds out for the whole fleet."""

from stagefleet.runs.shared_state.memory_shared_state import MemorySharedState
from stagefleet.runs.shared_state.protocol import FLEET_NAMESPACE, DatedValue, SharedState, UploadDecision
from stagefleet.runs.shared_state.redis_shared_state import RedisSharedState

__all__ = [
    "FLEET_NAMESPACE",
    "DatedValue",
    "MemorySharedState",
    "RedisSharedState",
    "SharedState",
    "UploadDecision",
]
