"""The platform of an image: `linux/amd64`, `linux/arm64/v8`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from stagefleet.errors import InvalidNameError

__all__ = ["Platform"]

_PLATFORM = re.compile(r"([a-z0-9]{1,32})/([a-z0-9_]{1,32})(?:/([a-z0-9._]{1,32}))?")
_SHOWN_CHARACTERS = 60


@dataclass(frozen=True, slots=True, order=True)
class Platform:
    """A platform, as members of an index name it (OCI image specification 1.1, "Image Index").

    Attributes:
        os: The operating system, as Go names it.
        architecture: The processor, as Go names it.
        variant: Of the processor; "" where it does not matter.
    """

    os: str
    architecture: str
    variant: str = ""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse `OS/ARCHITECTURE[/VARIANT]`.

        Raises:
            InvalidNameError: It is malformed.
        """
        match = _PLATFORM.fullmatch(text)
        if match is None:
            shown = repr(text)[:_SHOWN_CHARACTERS]
            raise InvalidNameError(f"{shown} is no platform: write OS/ARCHITECTURE[/VARIANT], as linux/amd64")
        return cls(match[1], match[2], match[3] or "")

    def matches(self, found: Mapping[str, Any]) -> bool:
        """Whether a platform as documents write it is this one; the variant counts where both have one."""
        variant = found.get("variant")
        return (self.os, self.architecture) == (found.get("os"), found.get("architecture")) and (
            not self.variant or not variant or self.variant == variant
        )

    @staticmethod
    def told(found: Mapping[str, Any]) -> str:
        """A platform as documents write it, for people."""
        parts = (found.get("os"), found.get("architecture"), found.get("variant"))
        return "/".join(str(part)[:_SHOWN_CHARACTERS] for part in parts if part)

    def as_json(self) -> dict[str, str]:
        """As documents write it."""
        variant = {"variant": self.variant} if self.variant else {}
        return {"architecture": self.architecture, "os": self.os, **variant}

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)
