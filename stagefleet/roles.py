"""The storages of a project, each in its role."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from stagefleet.names import DockerDaemon, Repository, parse_address
from stagefleet.settings import ProjectSettings

__all__ = ["Roles"]


@dataclass(frozen=True, slots=True)
class Roles:
    """Where the stages of a project are kept.

    Attributes:
        project: The project's name.
        primary: Where stages are built into.
        final: What is deployed from, None if that is the primary.
        caches: Near the builders, the nearest first; may lack anything at any time.
        secondaries: Read only; stages that the primary lacks are taken from there.
    """

    project: str
    primary: Repository | DockerDaemon
    final: Repository | None = None
    caches: tuple[Repository, ...] = ()
    secondaries: tuple[Repository, ...] = ()

    @classmethod
    def of(cls, project: str, settings: ProjectSettings) -> Self:
        """The storages that the settings give a project."""
        return cls(project, settings.primary, settings.final, settings.caches, settings.secondaries)

    @classmethod
    def alone(
        cls,
        primary: Repository | DockerDaemon,
        final: Repository | None = None,
        caches: tuple[Repository, ...] = (),
    ) -> Self:
        """The storages of a project that the settings need not know: it has the name of its primary one."""
        name = primary.project if isinstance(primary, DockerDaemon) else primary.name
        return cls(name, primary, final, caches)

    @property
    def deployed(self) -> Repository | DockerDaemon:
        """The storage whose names are handed to a deployment."""
        return self.final or self.primary

    def as_options(self) -> dict[str, Any]:
        """As `Order.options` carries them."""
        return {
            "project": self.project,
            "primary": str(self.primary),
            "final": None if self.final is None else str(self.final),
            "caches": [str(cache) for cache in self.caches],
            "secondaries": [str(secondary) for secondary in self.secondaries],
        }

    @classmethod
    def of_options(cls, options: Mapping[str, Any]) -> Self:
        """What `as_options` wrote; other options beside it do not matter.

        Raises:
            InvalidNameError: An address is malformed.
        """
        final = options.get("final")
        return cls(
            project=options["project"],
            primary=parse_address(options["primary"]),
            final=None if final is None else Repository.parse(final),
            caches=tuple(map(Repository.parse, options.get("caches", ()))),
            secondaries=tuple(map(Repository.parse, options.get("secondaries", ()))),
        )
