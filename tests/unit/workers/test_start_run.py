"""Requests for runs, on a Redis that is away for a moment."""

from __future__ import annotations

from typing import Any, Self, cast

from config.celery import make_app
from stagefleet.errors import RedisUnreachableError
from stagefleet.fleet.fleet import Fleet
from stagefleet.settings import Settings
from tasks.runs import StartRunTask


class AwayFleet:
    """A fleet whose Redis does not answer at first."""

    def __init__(self) -> None:
        self.keys: list[str] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to close."""

    def start(self, *_: Any, idempotency_key: str, **__: Any) -> Any:
        self.keys.append(idempotency_key)
        if len(self.keys) < 3:
            raise RedisUnreachableError("Redis refuses for now (LOADING)")
        return type("Run", (), {"id": "run", "total": 0})()


def test_a_request_is_not_lost_in_an_outage():
    """R8: a request that was taken from the broker is asked of Redis again, under the same key."""
    fleet = AwayFleet()
    app = make_app(Settings(redis_url="redis://localhost:1/0"))
    task = app.register_task(StartRunTask(lambda: cast(Fleet, fleet)))
    task(operation="copy", source="a.test/app", destination="b.test/app")
    assert (3, 1) == (len(fleet.keys), len(set(fleet.keys)))
