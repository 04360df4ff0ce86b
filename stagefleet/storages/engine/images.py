"""Images of one stage in an engine, one for each fetched platform.

Without containerd's image store an engine keeps one platform under a name (moby #43188): a pull of another
one takes the name away from the first, possibly while a job uses it. So the stage's own name always means the
engine's own platform, and every other platform has a name of its own, `STAGE_ID.OS.ARCHITECTURE[.VARIANT]`.
Neither stage ids nor the tags of records that begin with one contain a dot, so the names are unambiguous.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stagefleet.errors import InvalidNameError
from stagefleet.images import ImageInfo
from stagefleet.names import Repository, StageId
from stagefleet.platforms import Platform
from stagefleet.storages.engine.connection import Engine
from stagefleet.storages.engine.storage import describe_image_in

__all__ = ["StageImages"]


class StageImages:
    """Images of a stage in an engine.

    Args:
        engine: The engine.
        repository: Prefix of their names: a repository, or the name of a project.
        stage_id: The stage.
    """

    def __init__(self, engine: Engine, repository: Repository | str, stage_id: StageId) -> None:
        self._engine = engine
        self._repository = repository
        self._stage_id = stage_id

    def tag_for(self, platform: Platform) -> str:
        """Return the tag of a platform's image."""
        normal = platform.normal
        return str(self._stage_id) if normal == self._engine.platform else self._tag_of(normal)

    def find(self, platform: Platform | None = None) -> ImageInfo | None:
        """Find the image of a platform, None if it is not there.

        Args:
            platform: The platform; None for the engine's own, or for a stage that is one image.
        """
        own_tag = str(self._stage_id)
        image = self._inspect(own_tag)
        if image is not None and self.is_for(image, platform):
            return describe_image_in(image, self._repository, own_tag)
        return None if platform is None else self.describe(self._tag_of(platform.normal))

    def describe(self, tag: str) -> ImageInfo | None:
        """Describe the image of a tag, None if it is not there."""
        image = self._inspect(tag)
        return None if image is None else describe_image_in(image, self._repository, tag)

    def is_for(self, image: Mapping[str, Any], platform: Platform | None) -> bool:
        """Return True if an image is for a platform; an image without a platform is for the engine's own.

        Args:
            image: The engine's description (Docker Engine API 1.41, "Inspect an image").
            platform: As in `find`.
        """
        if platform is None and not self._stage_id.is_multiplatform:
            return True
        said = {key.lower(): image.get(key) for key in ("Os", "Architecture", "Variant")}
        own = self._engine.platform
        return (Platform.of(said) or own) == (own if platform is None else platform.normal)

    def all(self) -> dict[str, str]:
        """Return the image ids of the stage, by name."""
        own = f"{self._repository}:{self._stage_id}"
        others = sorted(name for name in self._engine.names(f"{own}.*") if _is_platform(name, own))
        found = {name: self._engine.find(name) for name in (own, *others)}
        return {name: str(image["Id"]) for name, image in found.items() if image is not None}

    def _inspect(self, tag: str) -> dict[str, Any] | None:
        return self._engine.find(f"{self._repository}:{tag}")

    def _tag_of(self, normal: Platform) -> str:
        return ".".join((str(self._stage_id), *str(normal).split("/")))


def _is_platform(name: str, own: str) -> bool:
    """Return True if the part after the stage's own name is a platform."""
    try:
        Platform.parse(name.removeprefix(f"{own}.").replace(".", "/", 2))
    except InvalidNameError:
        return False
    return True
