"""Stages for look-ups, and what a registry was asked for."""

from __future__ import annotations

from collections.abc import Iterable

from stagefleet.images import StageDescription
from stagefleet.names import Repository, StageId
from tests.services import RegistryServer
from tests.services.images import push_image

DIGEST = "a" * 56
OTHER = "b" * 56


def stage(number: int, digest: str = DIGEST) -> StageId:
    return StageId(digest, 1_700_000_000_000 + number)


def push(repository: Repository, *stage_ids: StageId) -> None:
    for stage_id in stage_ids:
        push_image(repository.host, repository.path, str(stage_id), layers=[str(stage_id).encode()])


def lists(registry: RegistryServer, repository: Repository) -> int:
    """How often the tags of a repository were listed; rejections are looked for in them too, once."""
    to_delete = [path for _, path, _ in registry.requests() if f"/{repository.path}/tags/list" in path]
    return sum(
        "last=" not in path for path in to_delete
    )  # the further page that brings nothing is the same list


def ids(descriptions: Iterable[StageDescription]) -> list[StageId]:
    return [description.stage_id for description in descriptions]
