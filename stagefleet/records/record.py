"""The base class of records, and access to their labels."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Self

from stagefleet.errors import BrokenRecordError
from stagefleet.names import StageId
from stagefleet.records.ids import RecordId, RecordKind

_MAX_DIGITS = 18


@dataclass(frozen=True, slots=True)
class Record(ABC):
    """A record: its tag holds its identity, its labels hold the rest."""

    kind: ClassVar[RecordKind]

    @property
    @abstractmethod
    def id(self) -> RecordId:
        """The identity of the record.

        Raises:
            InvalidNameError: No such record can exist.
        """

    @property
    def labels(self) -> dict[str, str]:
        """The labels of the record, without the project's."""
        return {}

    @classmethod
    @abstractmethod
    def read(cls, name: str, labels: Labels, /) -> Self:
        """Build a record from its name and labels.

        Args:
            name: The name in its identity.
            labels: Its labels.

        Raises:
            BrokenRecordError: A label is missing or invalid.
        """

    def as_json(self) -> dict[str, Any]:
        """Return the record as commands and outcomes show it (see docs/records.md)."""
        facts = {field.name: getattr(self, field.name) for field in fields(self)}
        return {
            "kind": str(self.kind),
            "id": self.id.item,
            "tag": self.id.tag,
            **{name: str(fact) if isinstance(fact, StageId) else fact for name, fact in facts.items()},
        }


@dataclass(frozen=True, slots=True)
class Labels:
    """The labels of a record; each lookup requires the label.

    Attributes:
        tag: The record's tag.
        labels: The labels.
    """

    tag: str
    labels: Mapping[str, str]

    def __getitem__(self, name: str) -> str:
        try:
            return self.labels[name]
        except KeyError:
            raise BrokenRecordError(f"the record {self.tag} lacks the label {name}: left alone") from None

    def moment_ms(self, name: str) -> int:
        """Read a time in milliseconds since 1970.

        Raises:
            BrokenRecordError: The label is missing or not a time.
        """
        text = self[name]
        if not (text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS):
            raise BrokenRecordError(f"the record {self.tag} has {text[:30]!r} as {name}: left alone")
        return int(text)
