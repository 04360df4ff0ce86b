"""What a fleet writes to Redis is in the table of its keys."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import stagefleet
from stagefleet.images import ImageInfo, StageDescription
from stagefleet.locks import RedisLocks
from stagefleet.names import Digest, Repository, StageId
from stagefleet.redis_client import connect_redis
from stagefleet.redis_keys import KEYS, RUN_ITEMS, RedisKey
from stagefleet.runs.models import Callback, ItemState, Outcome, RunSpec, WorkerInfo
from stagefleet.runs.redis_ledger import RedisLedger
from stagefleet.settings import LockSettings, RunSettings, SharedStateSettings
from stagefleet.shared_state.best_effort import RedisLastUsed, RedisTagLists
from stagefleet.shared_state.implementations import RedisSharedState
from stagefleet.shared_state.remembered_stages import RedisDescriptions, RedisRejections
from stagefleet.stage_lists import StageIdList

PAGE = Path(__file__).parents[2] / "docs/operations.md"
PREFIX = "t:"
STAGE = StageId("0a" * 28, 1)
PATTERNS = {key.pattern for key in KEYS}


def kinds_of(name: str) -> list[RedisKey]:
    """The kind of a key: the closest pattern, or none."""
    found = [kind for kind in KEYS if re.fullmatch(re.sub("[A-Z]+", ".+", kind.pattern), name)]
    return sorted(found, key=lambda kind: len(re.sub("[A-Z]+", "", kind.pattern)))[-1:]


def play(client) -> None:
    """A bit of everything that a fleet does."""
    ledger = RedisLedger(client, prefix=PREFIX, settings=RunSettings())
    ledger.heartbeats.beat(WorkerInfo("w", slots=4, queues=("copy",)), seconds=30)
    ledger.heartbeats.lead("reaper", "w", seconds=30)
    submission = ledger.open(RunSpec(operation="copy_stage", key="k", callback=Callback.WEBHOOK))
    ledger.append(submission, ["a", "b", "c"])
    ledger.start(submission)
    run = submission.run_id
    done, waits, behind = (ledger.claim(run, index, "w") for index in range(3))
    assert done
    assert waits
    assert behind
    ledger.hand_back(behind, behind=1)
    ledger.finish(waits, Outcome(item="b", state=ItemState.FAILED), retry_after_seconds=9)
    ledger.finish(done, Outcome(item="a", state=ItemState.SUCCEEDED))
    ledger.sweep()
    ledger.heartbeats.ping()
    caches = SharedStateSettings()
    locks = RedisLocks(client, prefix=PREFIX, settings=LockSettings())
    locks.acquire("a:stage@" + "0a" * 28)
    shared_state = RedisSharedState(client, prefix=PREFIX)
    shared_state.mark_uploaded(run, Repository("localhost:5000", "app"), [Digest("sha256", "aa" * 32)])
    RedisDescriptions(client, prefix=PREFIX, settings=caches).replace(
        "localhost:5000/app",
        StageDescription(
            stage_id=STAGE,
            info=ImageInfo(name="app:a", repository="app", tag="a", repo_digest="d", image_id="i"),
        ),
    )
    RedisTagLists(client, prefix=PREFIX, settings=caches).remember("localhost:5000/app", StageIdList([STAGE]))
    RedisRejections(client, prefix=PREFIX, settings=caches).remember("localhost:5000/app", [STAGE])
    RedisLastUsed(client, prefix=PREFIX, settings=caches).note("host", "image")
    locks.close()


def test_every_key_of_a_fleet_is_in_the_table(redis_server):
    client = connect_redis(redis_server.url)
    client.flushall()
    play(client)

    keys: list[Any] = list(client.scan_iter("*"))
    types: list[Any] = [client.type(key) for key in keys]
    found = {key.decode(): of_type.decode() for key, of_type in zip(keys, types, strict=True)}
    client.close()
    assert len(found) > 20
    unknown = {
        name: of_type
        for name, of_type in found.items()
        if not name.startswith(PREFIX)
        or [of_type] != [kind.type for kind in kinds_of(name.removeprefix(PREFIX))]
    }
    assert {} == unknown


def test_every_key_that_a_script_names_is_in_the_table():
    folder = Path(stagefleet.__file__).parent
    texts = {path: path.read_text() for path in folder.rglob("*.lua")}
    named = {name for text in texts.values() for name in re.findall(r"P \.\. '([^']+)'", text)}
    parts = {part for path, text in texts.items() for part in re.findall(r"key\(\w+, '(\w+)'\)", text)}

    assert named
    assert set() == {
        name for name in named if not kinds_of(name) and not any(key.startswith(name) for key in PATTERNS)
    }
    assert set() == {part for part in parts if not {f"run:RUN:{part}", f"lock:LOCK:{part}"} & PATTERNS}


def test_the_page_has_the_table():
    rows = re.findall(r"^\| `([^`]+)` \| (\w+) \| (.+?) \| .+ \|$", PAGE.read_text(), re.MULTILINE)
    assert [(key.pattern, key.type, key.lifetime or "nothing: it is kept") for key in KEYS] == rows


def test_a_key_is_made_of_its_pattern_and_names():
    assert "p:run:ITEMS:items" == RUN_ITEMS.of("p:", "ITEMS")
