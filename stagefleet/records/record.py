"""What all records have in common, from and to labels."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Self

from stagefleet.errors import BrokenRecordError
from stagefleet.names import StageId
from stagefleet.records.identity import RecordId, RecordKind

__all__ = ["Labels", "Record"]

_MAX_DIGITS = 18


@dataclass(frozen=True, slots=True)
class Record(ABC):
    """A record: which it is stands in its tag, what else it says in its labels."""

    kind: ClassVar[RecordKind]

    @property
    @abstractmethod
    def id(self) -> RecordId:
        """Which record it is.

        Raises:
            InvalidNameError: There can be no such record.
        """

    @property
    def labels(self) -> dict[str, str]:
        """Its labels besides the project's."""
        return {}

    @classmethod
    @abstractmethod
    def read(cls, name: str, labels: Labels, /) -> Self:
        """Read a record back.

        Args:
            name: That of its id.
            labels: What it has.

        Raises:
            BrokenRecordError: A label is missing, or says what cannot be.
        """

    def as_json(self) -> dict[str, Any]:
        """The record as commands and outcomes show it (see docs/records.md)."""
        facts = {field.name: getattr(self, field.name) for field in fields(self)}
        return {
            "kind": str(self.kind),
            "id": self.id.item,
            "tag": self.id.tag,
            **{name: str(fact) if isinstance(fact, StageId) else fact for name, fact in facts.items()},
        }


@dataclass(frozen=True, slots=True)
class Labels:
    """The labels of a record, each of which has to be there.

    Attributes:
        tag: The record's tag.
        labels: What it has.
    """

    tag: str
    labels: Mapping[str, str]

    def __getitem__(self, name: str) -> str:
        try:
            return self.labels[name]
        except KeyError:
            raise BrokenRecordError(f"the record {self.tag} lacks the label {name}: left alone") from None

    def moment_ms(self, name: str) -> int:
        """A time in milliseconds since 1970.

        Raises:
            BrokenRecordError: It is missing or no such time.
        """
        text = self[name]
        if not (text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS):
            raise BrokenRecordError(f"the record {self.tag} has {text[:30]!r} as {name}: left alone")
        return int(text)
