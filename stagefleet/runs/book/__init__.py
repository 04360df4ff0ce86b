"""Shared book of a run: data that one worker finds out for the whole fleet."""

from stagefleet.runs.book.memory import MemoryBook
from stagefleet.runs.book.protocol import FLEET, Dated, SharedBook, Verdict
from stagefleet.runs.book.server import RedisBook

__all__ = ["FLEET", "Dated", "MemoryBook", "RedisBook", "SharedBook", "Verdict"]
