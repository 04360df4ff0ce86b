"""Images that containers use, when they are to be removed from an engine, and the policy for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from stagefleet.errors import EngineError, ImageInUseError

if TYPE_CHECKING:
    from stagefleet.engine import Engine  # imports docker-py

_CONFLICT = 409
_SHOWN = 3


@dataclass(frozen=True, slots=True)
class InUsePolicy:
    """A policy for stages in use: skip them, or remove their containers, with `force` also running ones."""

    skip_used: bool = False
    remove_containers: bool = False
    force: bool = False

    def as_options(self) -> dict[str, bool]:
        """Return the policy for `RunSpec.options`; empty for the default."""
        asked = {
            "skip_used": self.skip_used,
            "remove_containers": self.remove_containers,
            "force": self.force,
        }
        return {name: value for name, value in asked.items() if value}


class ImageUse:
    """Containers that use images of an engine."""

    def __init__(self, engine: Engine, policy: InUsePolicy) -> None:
        self._engine = engine
        self._policy = policy

    def clear_containers(self, name: str, image_id: str) -> bool:
        """Ensure that no container uses an image; return False to skip it.

        `ImageInUseError` names a container that uses it, and the option to set.
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
