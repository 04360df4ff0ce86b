"""What is done about an image that containers use, when it is to be removed from an engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from stagefleet.errors import EngineError, ImageInUseError
from stagefleet.storages.engine import Engine
from stagefleet.use_policy import UsePolicy

__all__ = ["ImageUse"]

_CONFLICT = 409
_SHOWN = 3


class ImageUse:
    """The containers that use images of an engine.

    Args:
        engine: The engine.
        policy: What to do about them.
    """

    def __init__(self, engine: Engine, policy: UsePolicy) -> None:
        self._engine = engine
        self._policy = policy

    def make_free(self, name: str, image_id: str) -> bool:
        """See that no container uses an image.

        Args:
            name: Its name, for messages.
            image_id: Its id.

        Returns:
            Whether none does now; False where it is to be skipped.

        Raises:
            ImageInUseError: One does; names it and the option that helps.
        """
        containers = self._engine.users(image_id)
        if not containers:
            return True
        if self._policy.skip_used:
            return False
        if not self._policy.remove_containers:
            raise ImageInUseError(
                f"{name} is used by {_enumerate(containers)}: skip it with --skip-used, or remove "
                "its containers with --remove-containers"
            )
        for container in containers:
            self._remove(name, container)
        return True

    def _remove(self, name: str, container: Mapping[str, Any]) -> None:
        try:
            self._engine.remove_container(container["Id"], force=self._policy.force)
        except EngineError as error:
            if error.status != _CONFLICT:
                raise
            raise ImageInUseError(
                f"{name} is used by {_enumerate([container])}, which runs: stop it, or remove it with --force"
            ) from error


def _enumerate(containers: Sequence[Mapping[str, Any]]) -> str:
    names = [
        f"container {(container.get('Names') or ['?'])[0].lstrip('/')} ({container['Id'][:12]})"
        for container in containers[:_SHOWN]
    ]
    more = len(containers) - len(names)
    return ", ".join(names) + (f" and {more} more" if more else "")
