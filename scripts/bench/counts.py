"""Counts that no clock touches: requests, round trips, commands of Redis, and modules of a command.

One worker with one thread copies one stage after the other, so that a count is the same each time.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from hashlib import sha1
from importlib import resources
from pathlib import Path
from types import FrameType
from typing import Any

import config
import stagefleet
import tasks
import workers
from config.envelope import open_envelope
from stagefleet import Fleet, Settings
from stagefleet.attempt import ItemResult
from stagefleet.names import StageId
from stagefleet.runs.messages import queue_key, task_name
from stagefleet.runs.models import ItemState, Outcome, RunSpec, WorkerInfo
from stagefleet.runs.redis_ledger import RedisLedger
from tests.services import ImageMaker, RedisServer, RegistryServer, Workers, clean_environment, stage_id_of
from tests.unit.storages.far import Course as FarCourse
from workers.context import build_context

__all__ = ["count_all"]

STAGES = 20
_ITEMS = 200
_LEARNING = 4
_QUIET_SECONDS = 1.0
_SLOTS = 16
_OURS = tuple(str(Path(package.__file__ or "").parent) for package in (config, stagefleet, tasks, workers))
_END_OF_COUNT = "bench-check"
_PACKAGES_OF_SCRIPTS = ("runs", "locks", "shared_state")
_NOT_OF_STAGES = {"acknowledge", "beat", "enqueue_lost_coordinators", "lead", "renew", "snapshot", "sweep"}
"""Scripts that the clock starts, or that a client calls."""

_CODE_OF_COMMAND = """
import sys
sys.argv = ["stagefleet", *{arguments!r}]
from stagefleet.cli import main
try:
    main()
finally:
    import stagefleet
    ours = (sys.prefix, stagefleet.__path__[0])
    sys.modules.pop("async_timeout", None)  # redis-py needs it for Python before 3.11.3
    # redis-py loads OpenTelemetry's metrics where they are installed, as for the tests; stagefleet does not
    loaded = [module for name, module in list(sys.modules.items()) if not name.startswith("opentelemetry")]
    files = [getattr(module, "__file__", None) or "" for module in loaded]
    print("\\nmodules", sum(file.startswith(ours) for file in files), file=sys.stderr)
"""
"""Counts what was installed and what is ours; what Python itself brings differs from release to release."""


def count_all(folder: Path) -> dict[str, int]:
    """Count everything, each under a name that says what it is."""
    with ExitStack() as stack:
        redis = RedisServer(folder / "redis").start()
        stack.callback(redis.stop)
        items = count_commands_of_items(redis) | count_calls_of_items(redis)
        return items | count_rounds() | _count_on_registries(folder, stack, redis)


def count_rounds() -> dict[str, int]:
    """Count the round trips of a stage with a layer of its own: of its requests, those that wait for others.

    From the first ones it is learnt what the destination takes, and that it lacks the layers.
    """
    counts = {}
    for name, takes_whole_blobs in {"": False, ", to a registry that takes whole blobs": True}.items():
        with ExitStack() as stack:
            far: Any = FarCourse(stack)  # type: ignore[no-untyped-call]  # a test's
            far.destination.takes_whole_blobs = takes_whole_blobs
            for number in range(_LEARNING + 1):
                stage_id = StageId(f"{number:056x}", 1_764_000_000_000 + number)
                far.push(str(stage_id), b"layer %d" % number * 100)
                far.rounds.requests = [[]]
                far.rounds.quiet_seconds = _QUIET_SECONDS if number in {0, _LEARNING} else 0.05
                far.copy(stage_id)
                which = "a later" if number else "the first"
                counts[f"round trips to registries, {which} copied stage{name}"] = far.rounds.count
    return counts


def count_commands_of_items(redis: RedisServer) -> dict[str, int]:
    """Count the commands that Redis runs for an item that does nothing, in the middle of a long run."""
    settings, client = Settings(redis_url=redis.url), redis.client()
    ledger = RedisLedger.connect(redis.url, settings)
    ledger.heartbeats.beat(WorkerInfo("bench", _SLOTS, ("noop",)), seconds=60)
    submission = ledger.open(RunSpec(operation="noop", parallel=2 * _SLOTS))
    ledger.append(submission, [f"{'d' * 56}-{number:013}" for number in range(_ITEMS)])
    ledger.start(submission)

    def work_off(indexes: range) -> None:
        for index in indexes:
            claim = ledger.claim(submission.run_id, index, "bench")
            if claim is None:
                raise RuntimeError(f"item {index} is not published")
            ledger.finish(claim, Outcome(item=claim.item, state=ItemState.SUCCEEDED))

    work_off(range(_SLOTS))
    client.config_resetstat()
    work_off(range(_SLOTS, _ITEMS // 2))
    found = client.info("commandstats")
    calls = sum(entry["calls"] for name, entry in found.items() if "config" not in name)
    ledger.cancel(submission.run_id)
    ledger.heartbeats.beat(WorkerInfo("bench", _SLOTS, ("noop",)), seconds=0)
    client.delete(queue_key(settings.key_prefix, "noop"))
    ledger.close()
    # The newest claimed message is noted twice a second: those few commands are no whole one an item.
    return {"Redis commands, an item that does nothing": calls // (_ITEMS // 2 - _SLOTS)}


def count_calls_of_items(redis: RedisServer) -> dict[str, int]:
    """Count the functions of ours that an item which does nothing calls in a worker, once others are done."""
    settings, client, calls = Settings(redis_url=redis.url), redis.client(), 0
    context = build_context(settings, "bench", {"noop": lambda _storages, _attempt: ItemResult()})
    ledger, task = context.ledger, context.app.tasks[task_name("noop")]
    submission = ledger.open(RunSpec(operation="noop", parallel=_SLOTS))
    ledger.append(submission, [f"{'d' * 56}-{number:013}" for number in range(_SLOTS)])
    ledger.heartbeats.beat(WorkerInfo("bench", _SLOTS, ("noop",)), seconds=60)
    ledger.start(submission)
    messages: Any = client.lrange(queue_key(settings.key_prefix, "noop"), 0, -1)

    def count(frame: FrameType, event: str, _argument: object) -> None:
        nonlocal calls
        calls += event == "call" and frame.f_code.co_filename.startswith(_OURS)

    for index in range(_LEARNING + 1):
        sys.setprofile(count if index == _LEARNING else None)
        open_envelope(messages[index], "noop")
        task.run(run=submission.run_id, index=index)
    sys.setprofile(None)
    ledger.cancel(submission.run_id)
    ledger.heartbeats.beat(WorkerInfo("bench", _SLOTS, ("noop",)), seconds=0)
    client.delete(queue_key(settings.key_prefix, "noop"))
    context.close()
    return {"functions of ours, an item that does nothing": calls}


def _count_on_registries(folder: Path, stack: ExitStack, redis: RedisServer) -> dict[str, int]:
    registries = [RegistryServer(folder / name).start() for name in ("source", "destination")]
    for registry in registries:
        stack.callback(registry.stop)
    _push(registries[0])
    workers = Workers(redis.url, folder / "workers", processes=1, concurrency=1).start()
    stack.callback(workers.stop)
    fleet = stack.enter_context(Fleet.connect(redis.url))
    counts: dict[str, int] = {}
    source, destination = (f"{registry.host}/app" for registry in registries)

    def requests_of(what: str, work: Callable[[], Any], *, done: int | None = None) -> None:
        for registry in registries:
            registry.forget_requests()
        result = work()
        if done is not None and done != result.succeeded:
            raise RuntimeError(f"{what}: {result.succeeded} of {done} were done, so nothing is counted")
        counts[f"requests, {what}"] = sum(len(registry.requests()) for registry in registries)

    fleet.for_each_copy_stage(f"{source}/one", f"{destination}/one", parallel=1)  # connections and caches
    with _scripts_run(redis) as scripts:
        requests_of(
            f"copy of {STAGES} stages",
            lambda: fleet.for_each_copy_stage(f"{source}/stages", f"{destination}/stages", parallel=1),
            done=STAGES,
        )
    calls = {name: calls // STAGES for name, calls in scripts.items() if name and name not in _NOT_OF_STAGES}
    counts["Redis round trips, a copied stage"] = sum(calls.values())
    requests_of(
        f"copy of {STAGES} stages that are there",
        lambda: fleet.for_each_copy_stage(f"{source}/stages", f"{destination}/stages", parallel=1),
    )
    requests_of(
        "copy of an index of 2 images",
        lambda: fleet.for_each_copy_stage(f"{source}/index", f"{destination}/index", parallel=1),
        done=1,
    )
    requests_of(f"list of {STAGES} stages", lambda: list(fleet.stage_ids(f"{source}/stages")))
    requests_of(
        f"description of {STAGES} stages",
        lambda: list(fleet.describe_stages(f"{source}/stages", parallel=1)),
    )
    requests_of(
        f"deletion of {STAGES} stages",
        lambda: fleet.for_each_delete_stage(f"{destination}/stages", None, parallel=1),
        done=STAGES,
    )
    commands = {
        "--version": ("--version",),
        "list": ("list", f"{source}/stages"),
        "copy": ("copy", f"{source}/one", f"{destination}/one"),
        "delete --dry-run": ("delete", f"{source}/stages", "--all", "--dry-run"),
        "runs list": ("runs", "list"),
        "purge --help": ("purge", "--help"),
    }
    for name, arguments in commands.items():
        counts[f"modules, {name}"] = _count_modules(arguments, redis, folder)
    return counts


def _push(registry: RegistryServer) -> None:
    """Push stages with a base in common and a layer of their own, and an index."""
    with ImageMaker(registry) as maker:
        for number in range(STAGES):
            stage_id = stage_id_of(f"stage {number}", 1_764_000_000_000 + number)
            maker.push_image("app/stages", stage_id, layers=[b"base", b"layer %d" % number])
        maker.push_image("app/one", stage_id_of("one", 1_764_000_000_000), layers=[b"base"])
        members = [maker.push_image("app/index", None, layers=[b"base", name]) for name in (b"arm", b"amd")]
        maker.push_index("app/index", stage_id_of("index", None), members)


@contextmanager
def _scripts_run(redis: RedisServer) -> Iterator[Counter[str]]:
    """Count the calls of each script in the block: all that a worker says about a stage are scripts."""
    found: Counter[str] = Counter()
    names = _script_names()
    listening = threading.Event()

    def follow() -> None:
        client: Any = redis.client()
        with client.monitor() as monitor:
            listening.set()
            for entry in monitor.listen():
                words = [*entry["command"].split(" ", 4), "", "", ""]
                if _END_OF_COUNT in entry["command"]:
                    return
                if entry["client_type"] != "lua" and words[0] == "EVALSHA":
                    together = "together" if words[3].startswith("stagefleet.") else ""
                    found[names.get(words[1], together)] += 1

    follower = threading.Thread(target=follow, daemon=True)
    follower.start()
    listening.wait()
    yield found
    redis.client().echo(_END_OF_COUNT)
    follower.join()


def _script_names() -> dict[str, str]:
    """Return the names of all scripts by their digests."""
    names = {}
    for package in _PACKAGES_OF_SCRIPTS:
        folder = resources.files(f"stagefleet.{package}") / "lua"
        common = (folder / "common.lua").read_text("utf-8")
        for path in folder.iterdir():
            text = common + path.read_text("utf-8")
            names[sha1(text.encode(), usedforsecurity=False).hexdigest()] = path.name.removesuffix(".lua")
    return names


def _count_modules(arguments: tuple[str, ...], redis: RedisServer, folder: Path) -> int:
    """Run a command, and count the modules that it has loaded at its end."""
    done = subprocess.run(  # noqa: S603 - our own command
        [sys.executable, "-c", _CODE_OF_COMMAND.format(arguments=arguments)],
        env=clean_environment(STAGEFLEET_REDIS_URL=redis.url, HOME=str(folder)),
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stderr.rpartition("modules ")[2])
