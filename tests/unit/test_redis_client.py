"""Redis URLs that redis-py reads otherwise than they are meant."""

from __future__ import annotations

import pytest

from stagefleet.errors import SettingsError
from stagefleet.redis_client import connect_redis
from stagefleet.redis_pool import Peer


@pytest.mark.parametrize("path", ["abc", "0/1", "-1", "1a", "0x1"])
def test_a_database_that_is_no_number_is_refused(path: str):
    """redis-py would use database 0, or another one that is not meant."""
    with pytest.raises(SettingsError, match="its database is no number"):
        connect_redis(f"redis://redis.test:6401/{path}")


@pytest.mark.parametrize(
    ("url", "database"),
    [
        ("redis://redis.test", 0),
        ("redis://redis.test/", 0),
        ("rediss://redis.test/3", 3),
        ("redis://redis.test/3/", 3),
        ("redis://redis.test?db=2", 2),
        ("unix:///run/redis.sock?db=4", 4),
    ],
)
def test_a_database_is_a_number(url: str, database: int):
    client = connect_redis(url)
    assert database == client.connection_pool.connection_kwargs.get("db", 0)


def test_a_server_that_never_answered_is_said_to_be_asked_again_once(monkeypatch, caplog):
    now = [100.0]
    monkeypatch.setattr("stagefleet.redis_pool.time.monotonic", lambda: now[0])
    peer = Peer(asked_at=100.0)
    for seconds in (1.0, 2.0, 3.0, 4.0):
        now[0] = 100.0 + seconds
        peer.note_failure()
    assert ["Redis does not answer yet, and is asked again"] == [record.message for record in caplog.records]
