"""Where the records are that a command means, and of which kind they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from stagefleet.cli.options import NO_REPOSITORY
from stagefleet.client import Fleet
from stagefleet.errors import UsageError
from stagefleet.names import DockerDaemon, Repository, parse_address
from stagefleet.records import RecordKind
from stagefleet.redaction import quoted

__all__ = ["Place", "RecordWords", "final_of"]

Place = Repository | DockerDaemon


@dataclass(frozen=True, slots=True)
class RecordWords:
    """The words of a command on records: `[REPO] [KIND [WORD...]]`.

    Attributes:
        address: The repository, or `docker-daemon:PROJECT`; None for the primary storage of a project.
        named_kind: The kind, None where none is named.
        rest: What follows: ids, or values.
    """

    address: Place | None
    named_kind: RecordKind | None
    rest: tuple[str, ...]

    @classmethod
    def read(cls, words: Sequence[str], project: str | None) -> RecordWords:
        """Read them; where a project is named, the first may be the kind.

        Raises:
            UsageError: There is neither an address nor a project, or no such kind.
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
        """The kind.

        Raises:
            UsageError: None is named.
        """
        if self.named_kind is None:
            raise UsageError(f"Missing argument 'KIND': write one of {', '.join(RecordKind)}")
        return self.named_kind

    def place(self, fleet: Fleet, project: str | None) -> Place:
        """Where the records are; with a project, in its primary storage.

        Raises:
            UsageError: A project and an address are named, or there is no such project.
        """
        if project is None:
            assert self.address is not None
            return self.address
        if self.address is not None:
            raise UsageError(f"--project says where the records are: leave out {self.address}")
        return fleet.roles(project).primary


def final_of(fleet: Fleet, project: str | None) -> Repository | None:
    """Where the custom tags of a project are whose records are in its primary storage; None if there, too."""
    return None if project is None else fleet.roles(project).final


def _parse_kind(word: str) -> RecordKind:
    try:
        return RecordKind(word)
    except ValueError:
        kinds = ", ".join(RecordKind)
        raise UsageError(f"{quoted(word)} is no kind of record: write one of {kinds}") from None
