"""Platforms of images, `linux/amd64` or `linux/arm64/v8`, and the choice of platforms for a fetch."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from stagefleet.errors import InvalidNameError, UsageError
from stagefleet.redaction import quoted

# Limited, so that a tag has room for all three after a stage id.
_PLATFORM = re.compile(r"([a-z0-9]{1,16})/([a-z0-9_]{1,16})(?:/([a-z0-9._]{1,16}))?")
_SHOWN_CHARACTERS = 60

# The aliases of containerd (its package platforms, `normalizeArch`) and Docker.
_SPELLINGS = {
    "aarch64": ("arm64", ""),
    "armel": ("arm", "v6"),
    "armhf": ("arm", "v7"),
    "i386": ("386", ""),
    "x86_64": ("amd64", ""),
}
_IMPLIED_VARIANTS = {"amd64": "v1", "arm": "v7", "arm64": "v8"}
_UNKNOWN = "unknown"
"""The operating system and architecture of manifests that are no images, such as BuildKit's attestations."""


@dataclass(frozen=True, slots=True, order=True)
class Platform:
    """A platform, as members of an index name it (OCI image specification 1.1, "Image Index").

    Attributes:
        os: The operating system, as Go names it.
        architecture: The processor, as Go names it.
        variant: The processor's variant; "" if it does not matter.
    """

    os: str
    architecture: str
    variant: str = ""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse `OS/ARCHITECTURE[/VARIANT]`.

        Raises:
            InvalidNameError: The text is malformed.
        """
        match = _PLATFORM.fullmatch(text)
        if match is None:
            raise InvalidNameError(
                f"{quoted(text)} is no platform: write OS/ARCHITECTURE[/VARIANT], as linux/amd64"
            )
        return cls(match[1], match[2], match[3] or "")

    @classmethod
    def of(cls, found: Mapping[str, Any]) -> Self | None:
        """Read the platform from a document, in its normal form; return None if the document has none.

        Args:
            found: A document with `os`, `architecture` and optionally `variant`.
        """
        if not found.get("os") or not found.get("architecture"):
            return None
        try:
            platform = cls.parse(cls.display_name(found).lower())
        except InvalidNameError:
            return None
        return None if _UNKNOWN in {platform.os, platform.architecture} else platform.normal

    @property
    def normal(self) -> Self:
        """The normal form of equivalent spellings: `linux/arm64` for `linux/arm64/v8`."""
        architecture, implied = _SPELLINGS.get(self.architecture, (self.architecture, ""))
        variant = self.variant or implied
        variant = f"v{variant}" if variant.isdigit() else variant
        if variant == _IMPLIED_VARIANTS.get(architecture):
            variant = ""
        return type(self)(self.os, architecture, variant)

    def matches(self, found: Mapping[str, Any]) -> bool:
        """Compare with the platform in a document; the variant counts only if both have one."""
        variant = found.get("variant")
        return (self.os, self.architecture) == (found.get("os"), found.get("architecture")) and (
            not self.variant or not variant or self.variant == variant
        )

    @staticmethod
    def display_name(found: Mapping[str, Any]) -> str:
        """Format the platform in a document for messages."""
        parts = (found.get("os"), found.get("architecture"), found.get("variant"))
        return "/".join(str(part)[:_SHOWN_CHARACTERS] for part in parts if part)

    def as_json(self) -> dict[str, str]:
        """Return the platform in the form of an image index."""
        variant = {"variant": self.variant} if self.variant else {}
        return {"architecture": self.architecture, "os": self.os, **variant}

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)


@dataclass(frozen=True, slots=True)
class PlatformSelection:
    """A choice of platforms of a multi-platform stage; by default the engine's own alone.

    Attributes:
        named: The chosen platforms.
        everything: Choose all platforms that an engine can keep.
    """

    named: tuple[Platform, ...] = ()
    everything: bool = False

    @classmethod
    def parse(cls, named: Sequence[str | Platform] | None, *, everything: bool = False) -> Self:
        """Parse a caller's choice.

        Args:
            named: Platforms, None or empty for the engine's own.
            everything: All platforms.

        Raises:
            UsageError: Both `named` and `everything` are given.
            InvalidNameError: A platform is malformed.
        """
        if isinstance(named, str):
            raise UsageError("platforms is one string: hand in a list of platforms")
        if named and everything:
            raise UsageError("name platforms, or ask for all of them, not both")
        parsed = (name if isinstance(name, Platform) else Platform.parse(name) for name in named or ())
        return cls(tuple(dict.fromkeys(parsed)), everything)

    def __bool__(self) -> bool:
        return self.everything or bool(self.named)

    def as_options(self) -> dict[str, Any]:
        """Return the choice for `RunSpec.options`; empty for the default."""
        if self.everything:
            return {"all_platforms": True}
        return {"platforms": [str(platform) for platform in self.named]} if self.named else {}
