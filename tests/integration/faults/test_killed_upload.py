"""A worker that dies in the middle of a large blob: another one goes on where it was."""

from __future__ import annotations

import os

import pytest

from tests.integration.faults.conftest import LIMIT_SECONDS
from tests.services import ImageMaker, TcpProxy, push_image, stage_id_of
from tests.services.registry import built_registry

SIZE = 24 << 20
SENT = 16 << 20


def test_what_a_killed_worker_has_sent_is_not_sent_again(
    registry, make_registry, make_workers, redis_server, environment, start, cleanup
):
    binary = built_registry()
    if binary is None:
        pytest.skip("distribution 3 is not built here")
    server = make_registry(binary=binary)
    proxy = cleanup.enter_context(TcpProxy(server.host))
    stage_id = stage_id_of("large", 1_700_000_000_000)
    pushed = push_image(registry, "source/app", stage_id, layers=[os.urandom(SIZE)])
    environment |= {"STAGEFLEET_LOCKS__LEASE_SECONDS": "4"}  # of the stage's lock, which nobody gives back
    first = make_workers(redis_server.url, environment=environment)
    proxy.stall_after(SENT)
    copy = start("copy", f"{registry.host}/source/app", f"{proxy.host}/destination/app")
    assert proxy.stalled.wait(LIMIT_SECONDS)
    first.kill()
    proxy.blackhole(False)  # noqa: FBT003 - a switch
    make_workers(redis_server.url, environment=environment)
    assert 0 == copy.wait(), copy.errors
    outcome, _ = copy.objects
    assert ("succeeded", 2) == (outcome["state"], outcome["attempts"])
    assert outcome["bytes"] < SIZE - SENT // 2
    assert proxy.passed_bytes < SIZE + SENT // 2
    with ImageMaker(server) as maker:
        assert pushed.digest == maker.digest("destination/app", stage_id)
