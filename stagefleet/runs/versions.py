"""Versions of what releases write one another: the ledger's keys, its messages, and the workers' heartbeats.

The schema version has a major and a minor part. Readers ignore fields that they do not know, so a new field
raises the minor part. A field that must not be ignored, or a changed meaning, raises the major part, which an
older reader refuses (docs/upgrading.md).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from typing import Self

from stagefleet.errors import IncompatibleVersionError

__all__ = ["SCHEMA_VERSION", "WriterVersion", "own_version"]

SCHEMA_VERSION = "1.0"
"""Of what this release writes."""

_SCHEMA = re.compile(r"(?a:(\d{1,9})\.(\d{1,9}))")


@dataclass(frozen=True, slots=True)
class WriterVersion:
    """The version of who wrote something.

    Attributes:
        release: The version of the package, "" from before versions were written.
        schema: `MAJOR.MINOR` of what it writes, "" from before versions were written.
    """

    release: str = ""
    schema: str = ""

    @classmethod
    def read(cls, release: object, schema: object) -> Self:
        """Take what was written, whatever it is; only text counts, and no more than a version needs."""

        def text(value: object) -> str:
            value = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
            return value[:40] if isinstance(value, str) else ""

        return cls(text(release), text(schema))

    def __str__(self) -> str:
        """Say it to a person."""
        if not self.schema:
            return "a stagefleet from before schema versions"
        return f"stagefleet {self.release or 'of an unknown release'} (schema {self.schema})"

    @property
    def major(self) -> int | None:
        """The major part of the schema version, None where it is no version."""
        found = _SCHEMA.fullmatch(self.schema)
        return int(found[1]) if found else None

    @property
    def is_compatible(self) -> bool:
        """Tell whether the two releases understand what each other writes."""
        return self.major is not None and self.major == own_version().major

    def check(self, what: str) -> None:
        """Refuse what this release cannot read; what has no version is tried.

        Args:
            what: What was written, as `run 21177baa3ad5`.

        Raises:
            IncompatibleVersionError: Its schema has another major version.
        """
        if self.schema and not self.is_compatible:
            raise self.refusal(what)

    def refusal(self, what: str, problem: str = "") -> IncompatibleVersionError:
        """Make the error that names both versions.

        Args:
            what: What was written.
            problem: What could not be read, "" where the versions say it all.
        """
        own = own_version()
        detail = f" ({problem})" if problem else ""
        older = "update this one" if self._is_newer else "update the other"
        return IncompatibleVersionError(
            f"{what} was written by {self}, which this {own} cannot read{detail}: {older}, or run both at "
            "one version"
        )

    @property
    def _is_newer(self) -> bool:
        major, own = self.major, own_version().major
        return major is None or own is None or major >= own


@cache
def own_version() -> WriterVersion:
    """Give the version of this release."""
    try:
        release = metadata.version("stagefleet")
    except metadata.PackageNotFoundError:  # a checkout that was not installed
        release = ""
    return WriterVersion(release, SCHEMA_VERSION)
