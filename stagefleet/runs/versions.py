"""Versions of this release, and of data shared between releases: keys, messages, and heartbeats.

The schema version has a major and a minor part. Readers ignore unknown fields, so a new field raises the
minor part. A field that must not be ignored, or a changed meaning, raises the major part, which older readers
refuse (docs/upgrading.md).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import Self

from stagefleet.errors import IncompatibleVersionError

__version__ = "0.1.0"
"""The version of this release; the wheel is built with it."""

SCHEMA_VERSION = "1.1"
"""Schema version of data written by this release; 1.1 has runs that start early."""

_EARLY_STARTS_MINOR = 1
_SCHEMA = re.compile(r"(?a:(\d{1,9})\.(\d{1,9}))")


@dataclass(frozen=True, slots=True)
class WriterVersion:
    """Version of the writer of some data, and `MAJOR.MINOR` of its schema; "" for data without a version."""

    release: str = ""
    schema: str = ""

    @classmethod
    def read(cls, release: object, schema: object) -> Self:
        """Create a version from untrusted values; only text counts, and only as much as a version needs."""

        def text(value: object) -> str:
            value = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
            return value[:40] if isinstance(value, str) else ""

        return cls(text(release), text(schema))

    def __str__(self) -> str:
        """Format it for people."""
        if not self.schema:
            return "a stagefleet from before schema versions"
        return f"stagefleet {self.release or 'of an unknown release'} (schema {self.schema})"

    @property
    def major(self) -> int | None:
        """The major part of the schema version, None if it is malformed."""
        found = _SCHEMA.fullmatch(self.schema)
        return int(found[1]) if found else None

    @property
    def is_compatible(self) -> bool:
        """True if the two releases understand each other's data."""
        return self.major is not None and self.major == own_version().major

    @property
    def knows_early_starts(self) -> bool:
        """True if a worker of this release claims items of a run before its list of them is complete."""
        found = _SCHEMA.fullmatch(self.schema)
        return self.is_compatible and found is not None and int(found[2]) >= _EARLY_STARTS_MINOR

    def check(self, what: str) -> None:
        """Refuse data of an incompatible release; data without a version passes.

        `what` names the data, as `run 21177baa3ad5`, in the IncompatibleVersionError.
        """
        if self.schema and not self.is_compatible:
            raise self.refusal(what)

    def refusal(self, what: str, problem: str = "") -> IncompatibleVersionError:
        """Build the error that names both versions, and the part that could not be read."""
        own = own_version()
        detail = f" ({problem})" if problem else ""
        is_newer = self.major is None or own.major is None or self.major >= own.major
        older = "update this one" if is_newer else "update the other"
        return IncompatibleVersionError(
            f"{what} was written by {self}, which this {own} cannot read{detail}: {older}, or run both at "
            "one version"
        )


@cache
def own_version() -> WriterVersion:
    """Return the version of this release."""
    return WriterVersion(__version__, SCHEMA_VERSION)
