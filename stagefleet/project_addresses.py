"""Addresses of a project's storages by role, image names for deployments, and arguments with addresses."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

from stagefleet.errors import UsageError
from stagefleet.names import Repository, StageId, StorageAddress, parse_address
from stagefleet.settings import ProjectSettings


@dataclass(frozen=True, slots=True)
class Project:
    """The storages of a project.

    Attributes:
        primary: Builders write stages here.
        final: Deployments pull from here; None if they use the primary.
        caches: Near the builders, the nearest first; any stage may be missing at any time.
        secondaries: Read only; stages that the primary lacks are copied from these.
    """

    name: str
    primary: StorageAddress
    final: Repository | None = None
    caches: tuple[Repository, ...] = ()
    secondaries: tuple[Repository, ...] = ()

    @classmethod
    def of(cls, project: str, settings: ProjectSettings) -> Self:
        """Read a project's storages from the settings."""
        return cls(project, settings.primary, settings.final, settings.caches, settings.secondaries)

    @classmethod
    def alone(
        cls, primary: StorageAddress, final: Repository | None = None, caches: tuple[Repository, ...] = ()
    ) -> Self:
        """Build the storages of a project that is not in the settings, named after its primary storage.

        Storages named in two roles are refused.
        """
        storages = [primary, *(() if final is None else (final,)), *caches]
        for storage in storages:
            if storages.count(storage) > 1:
                raise UsageError(f"{storage} is named in two roles: name another storage for one of them")
        return cls(primary.name, primary, final, caches)

    @classmethod
    def of_source(cls, source: Source) -> Project:
        """Return the storages of a source."""
        return source if isinstance(source, Project) else cls.alone(parse_storage(source))

    @property
    def deployed(self) -> StorageAddress:
        """The storage that deployments pull from."""
        return self.final or self.primary

    @property
    def final_repository(self) -> Repository:
        """The final storage; `UsageError` if the project has none."""
        if self.final is None:
            raise UsageError(f"project {self.name} has no final storage: set projects.{self.name}.final")
        return self.final

    def storages(self) -> Iterator[tuple[str, StorageAddress]]:
        """Iterate over the storages with their roles."""
        yield "primary", self.primary
        if self.final is not None:
            yield "final", self.final
        yield from (("cache", cache) for cache in self.caches)
        yield from (("secondary", secondary) for secondary in self.secondaries)

    def as_fields(self) -> dict[str, Any]:
        """Return the storages as fields of an operation."""
        return {
            "project": self.name,
            "primary": self.primary,
            "final": self.final,
            "caches": self.caches,
            "secondaries": self.secondaries,
        }


# Image names for deployments: of the final storage if there is one, else of the primary.

TagRule = Callable[[str, str], str]
"""Makes a custom tag of an image's name and the tag of its stage."""


@dataclass(frozen=True, slots=True)
class DeployedImage:
    """An image as a deployment names it; `image` is the project's name, "" for the nameless one."""

    image: str
    repository: str
    tag: str

    @property
    def name(self) -> str:
        """The full name."""
        return f"{self.repository}:{self.tag}"


def deployed_image(
    project: Project, image: str, stage_id: StageId, tag_rule: TagRule | None = None
) -> DeployedImage:
    """Return the deployment's name of the image whose last stage is `stage_id`."""
    tag = str(stage_id) if tag_rule is None else tag_rule(image, str(stage_id))
    return DeployedImage(image, project.deployed.image_name, tag)


# Arguments that people write.

Items = Iterable[str | StageId]
"""Names of stages or records."""
Source = str | StorageAddress | Project
"""The storages that stages are fetched from; an address alone is the primary."""


def parse_repository(address: str | StorageAddress) -> Repository:
    """Parse the address of a repository; `UsageError` for one on a host, or if it is malformed."""
    parsed = parse_storage(address)
    if parsed.is_on_host:
        raise UsageError(f"{parsed} is on a host: name a registry's repository here")
    return parsed


def parse_storage(address: str | StorageAddress) -> StorageAddress:
    """Parse the address of a storage; `InvalidNameError` if it is malformed."""
    return parse_address(address) if isinstance(address, str) else address


def parse_stage_ids(stage_ids: Items | None) -> tuple[str, ...] | None:
    """Parse stage ids, without duplicates, in their order; `UsageError` for a single string."""
    if stage_ids is None:
        return None
    if isinstance(stage_ids, str):
        raise UsageError("stage_ids is one string: hand in a list of stage ids")
    return tuple(dict.fromkeys(str(StageId.parse(str(stage_id))) for stage_id in stage_ids))


def parse_hosts(hosts: Sequence[str] | None) -> tuple[str, ...]:
    """Return the names of hosts without duplicates; `UsageError` for a single string."""
    if isinstance(hosts, str):
        raise UsageError("hosts is one string: hand in a list of names")
    return tuple(dict.fromkeys(hosts or ()))
