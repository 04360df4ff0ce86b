"""The queues that a worker listens to; the supervisor chooses them without loading Celery."""

from __future__ import annotations

from collections.abc import Sequence

from stagefleet.errors import SettingsError
from stagefleet.runs.messages import QUEUES, host_queue, queue_of
from stagefleet.settings import EngineSettings

_FETCH = queue_of("fetch_stage")


def choose_queues(asked: Sequence[str] | None, engine: EngineSettings) -> list[str]:
    """Return the queues of a worker: those requested, or all; `fetch` adds its host's own.

    Only a worker with a Docker Engine can fetch: without one it would fail items that others could process.

    Args:
        asked: Requested names, None for all.
        engine: The engine of this host.

    Raises:
        SettingsError: A queue does not exist, or requires an engine.
    """
    known = sorted(set(QUEUES.values()))
    has_engine = engine.address is not None
    if asked is None:
        asked = [name for name in known if has_engine or name != _FETCH]
    unknown = sorted(set(asked) - set(known))
    if unknown or not asked:
        named = ", ".join(unknown) or "none named"
        raise SettingsError(f"--queues: no such queue ({named}); there are {', '.join(known)}")
    if _FETCH in asked and not has_engine:
        raise SettingsError(
            f"--queues {_FETCH}: this host has no Docker Engine; name one with STAGEFLEET_ENGINE__URL"
        )
    own = [host_queue(engine.host_name)] if _FETCH in asked else []
    return list(dict.fromkeys([*asked, *own]))
