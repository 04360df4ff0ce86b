"""What the workers of a run find out together, so that each thing is found out once in the whole fleet."""

from stagefleet.runs.book.memory import MemoryBook
from stagefleet.runs.book.protocol import FLEET, Dated, SharedBook, Verdict
from stagefleet.runs.book.server import RedisBook

__all__ = ["FLEET", "Dated", "MemoryBook", "RedisBook", "SharedBook", "Verdict"]
