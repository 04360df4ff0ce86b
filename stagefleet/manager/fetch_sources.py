"""Where a project's stages are fetched from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from stagefleet.names import DockerDaemon, Repository, parse_address

__all__ = ["FetchSources"]


@dataclass(frozen=True, slots=True)
class FetchSources:
    """Where a project's stages are fetched from.

    Attributes:
        project: The project.
        primary: Its primary storage.
        caches: Its caches, the nearest first.
    """

    project: str
    primary: Repository | DockerDaemon
    caches: tuple[Repository, ...] = ()

    def as_options(self) -> dict[str, Any]:
        """As `Order.options` carries them."""
        return {
            "project": self.project,
            "primary": str(self.primary),
            "caches": [str(cache) for cache in self.caches],
        }

    @classmethod
    def of_options(cls, options: Mapping[str, Any]) -> Self:
        """What `as_options` wrote."""
        return cls(
            project=options["project"],
            primary=parse_address(options["primary"]),
            caches=tuple(Repository.parse(cache) for cache in options["caches"]),
        )
