"""The place and kind of the records that a command selects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from stagefleet.cli.options import NO_REPOSITORY
from stagefleet.client import Fleet
from stagefleet.errors import UsageError
from stagefleet.names import Repository, StorageAddress, parse_address
from stagefleet.records import RecordKind
from stagefleet.redaction import quoted

__all__ = ["RecordArguments", "StorageAddress", "final_of"]


@dataclass(frozen=True, slots=True)
class RecordArguments:
    """The arguments of a command on records: `[REPO] [KIND [WORD...]]`.

    Attributes:
        address: The repository, or `docker-daemon:PROJECT`; None for the primary storage of a project.
        named_kind: The kind; None if none is named.
        rest: The other arguments: ids, or values.
    """

    address: StorageAddress | None
    named_kind: RecordKind | None
    rest: tuple[str, ...]

    @classmethod
    def read(cls, words: Sequence[str], project: str | None) -> RecordArguments:
        """Parse the arguments; with a project, the first may be the kind.

        Raises:
            UsageError: Both address and project are missing, or the kind is unknown.
        """
        first, *others = words or ("",)
        if project is not None and (not first or first in set(RecordKind)):
            return cls(None, RecordKind(first) if first else None, tuple(others))
        if not first:
            raise UsageError(NO_REPOSITORY)
        address = parse_address(first)
        return cls(address, _parse_kind(others[0]) if others else None, tuple(others[1:]))

    @property
    def kind(self) -> RecordKind:
        """The kind of the records.

        Raises:
            UsageError: None is named.
        """
        if self.named_kind is None:
            raise UsageError(f"Missing argument 'KIND': write one of {', '.join(RecordKind)}")
        return self.named_kind

    def resolve(self, fleet: Fleet, project: str | None) -> StorageAddress:
        """Return the storage of the records: the address, or the primary storage of the project.

        Raises:
            UsageError: Both a project and an address are named, or the project does not exist.
        """
        if project is None:
            assert self.address is not None
            return self.address
        if self.address is not None:
            raise UsageError(f"--project says where the records are: leave out {self.address}")
        return fleet.resolve_project(project).primary


def final_of(fleet: Fleet, project: str | None) -> Repository | None:
    """Return the final storage of a project, which has its custom tags; None if the primary has them."""
    return None if project is None else fleet.resolve_project(project).final


def _parse_kind(word: str) -> RecordKind:
    try:
        return RecordKind(word)
    except ValueError:
        kinds = ", ".join(RecordKind)
        raise UsageError(f"{quoted(word)} is no kind of record: write one of {kinds}") from None
