"""What Redis answers instead of an answer, on every path to it; texts of Redis 6.2, 7.0 and Valkey 9.1."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import pytest
import redis
from redis.backoff import NoBackoff

from stagefleet.errors import RedisConfigurationError, RedisUnreachableError, StagefleetError
from stagefleet.images import ImageInfo, StageDescription
from stagefleet.locks import RedisLocks
from stagefleet.names import Digest, Repository, StageId
from stagefleet.redis_client import LastStep, connect_redis, map_redis_errors, put_off
from stagefleet.redis_pool import Script
from stagefleet.runs.ledger import Claim, RenewalResult
from stagefleet.runs.models import ItemState, Outcome, RunSpec, Submission, WorkerInfo
from stagefleet.runs.redis_ledger import RedisLedger
from stagefleet.settings import LockSettings, RunSettings, SharedStateSettings
from stagefleet.shared_state.best_effort import RedisLastUsed, RedisTagLists
from stagefleet.shared_state.implementations import RedisSharedState
from stagefleet.shared_state.remembered_stages import RedisDescriptions
from stagefleet.stage_lists import StageIdList

WRAPPED = "ERR Error running script (call to f_{}): @user_script:1: @user_script: 1: ".format("0a" * 20)
MISCONF = (
    "MISCONF Redis is configured to save RDB snapshots, but it is currently not able to persist on disk."
)
OOM = "OOM command not allowed when used memory > 'maxmemory'."
READONLY = "READONLY You can't write against a read only replica."
PASSING = {
    "busy": "BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.",
    "clients": "ERR max number of clients reached",
    "cluster down": "CLUSTERDOWN Hash slot not served",
    "cluster down, in a script": "ERR Script attempted to execute a command while the cluster is down",
    "disk full": MISCONF,
    "disk full, in a script": f"{MISCONF} script: {'0a' * 20}, on @user_script:1.",
    "disk full, in a script of Redis 6": f"{WRAPPED}-{MISCONF}",
    "loading": "LOADING Redis is loading the dataset in memory",
    "memory full": OOM,
    "memory full, in a script": f"{OOM} script: on @user_script:1.",
    "memory full, in a script of Redis 6": f"{WRAPPED}-{OOM}",
    "no replicas": "NOREPLICAS Not enough good replicas to write.",
    "no replicas, in a script of Redis 6": f"{WRAPPED}-NOREPLICAS Not enough good replicas to write.",
    "no script": "NOSCRIPT No matching script. Please use EVAL.",
    "primary down": "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
    "replica": READONLY,
    "replica, in a script": f"{READONLY} script: {'0a' * 20}, on @user_script:1.",
    "replica, in a script of Redis 6": f"{WRAPPED}-{READONLY}",
    "transaction": "EXECABORT Transaction discarded because of previous errors.",
    "transaction, with a reason": f"EXECABORT Transaction discarded because of: {MISCONF}",
    "try again": "TRYAGAIN Multiple keys request during rehashing of slot",
    "unblocked": "UNBLOCKED force unblock from blocking operation, instance state changed",
}
WRONG = {
    "cluster": "CROSSSLOT Keys in request don't hash to the same slot",
    "cluster, asking": "ASK 1234 127.0.0.1:6381",
    "cluster, in a script": "ERR Attempted to access a non local key in a cluster node",
    "cluster, in a script of Redis 6": f"{WRAPPED}Lua script attempted to access a non local key",
    "cluster, moved": "MOVED 1234 127.0.0.1:6381",
    "database": "ERR DB index is out of range",
    "database of a cluster": "ERR SELECT is not allowed in cluster mode",
    "login": "WRONGPASS invalid username-password pair or user is disabled.",
    "login missing": "NOAUTH Authentication required.",
    "protected": "DENIED Redis is running in protected mode because protected mode is enabled",
    "rights": "NOPERM User u has no permissions to run the 'evalsha' command",
    "rights, in a script": "ERR ACL failure in script: User u has no permissions to run the 'set' command",
    "rights, in a script of Redis 6": f"{WRAPPED}The user executing the script can't run this command",
    "rights to a key, in a script": "ERR The user executing the script can't access at least one of the keys",
    "sentinel": "ERR unknown command 'EVALSHA', with args beginning with: 'hunter2' ",
    "version": "ERR unknown command `ZRANGESTORE`, with args beginning with: `hunter2`, ",
    "version, in a script": "ERR Unknown Redis command called from script script: on @user_script:1.",
}

REPOSITORY = Repository("127.0.0.1:5000", "app")
BLOB = Digest("sha256", "aa" * 32)
STAGE = StageId(hashlib.sha224(b"stage").hexdigest(), 1_700_000_000_000)
INFO = ImageInfo(
    name="app:tag", repository="app", tag="tag", repo_digest="app@sha256:aa", image_id="sha256:bb"
)
DESCRIPTION = StageDescription(stage_id=STAGE, info=INFO)
CLAIM = Claim("run", 0, "item", fence=1, attempt=1, claimed_at=0.0, lease_until=30.0)
OUTCOME = Outcome(item="item", state=ItemState.SUCCEEDED)
ORDER = RunSpec(operation="copy_stage", parallel=1)
SUBMISSION = Submission(run_id="run", kind="new", token=1)  # type: ignore[arg-type]  # pydantic-like: its value
WORKER = WorkerInfo("worker", slots=1, queues=("copy",))


class WorkerContext:
    """Everything that speaks to Redis, on one client."""

    def __init__(self, url: str) -> None:
        self.redis: Any = connect_redis(url)
        self.ledger = RedisLedger(self.redis, prefix="t:", settings=RunSettings())
        self.locks = RedisLocks(self.redis, prefix="t:", settings=LockSettings())
        self.shared_state = RedisSharedState(self.redis, prefix="t:")
        caches = SharedStateSettings()
        self.descriptions = RedisDescriptions(self.redis, prefix="t:", settings=caches)
        self.tag_lists = RedisTagLists(self.redis, prefix="t:", settings=caches)
        self.last_used = RedisLastUsed(self.redis, prefix="t:", settings=caches)

    def finish_with_description(self) -> None:
        step = LastStep()
        put_off(step, self.descriptions.replacing("storage", DESCRIPTION))
        self.ledger.finish(CLAIM, OUTCOME, last_step=step)

    def publish(self) -> None:
        with map_redis_errors(self.redis):
            self.redis.publish("channel", "text")

    def subscribe(self) -> None:
        with map_redis_errors(self.redis), self.redis.pubsub() as subscription:
            subscription.subscribe("channel")
            subscription.get_message(timeout=5)

    def transact(self) -> None:
        with map_redis_errors(self.redis), self.redis.pipeline(transaction=True) as pipe:
            pipe.set("key", "text")
            pipe.get("key")
            pipe.execute()

    def pipe(self) -> None:
        with map_redis_errors(self.redis), self.redis.pipeline(transaction=False) as pipe:
            pipe.set("key", "text")
            pipe.get("key")
            pipe.execute()


PATHS: dict[str, Callable[[WorkerContext], object]] = {
    "open": lambda parts: parts.ledger.open(ORDER),
    "append": lambda parts: parts.ledger.append(SUBMISSION, ["item"]),
    "claim": lambda parts: parts.ledger.claim("run", 0, "worker"),
    "renew": lambda parts: parts.ledger.renew([CLAIM]),
    "finish": lambda parts: parts.ledger.finish(CLAIM, OUTCOME),
    "last step": WorkerContext.finish_with_description,
    "lead": lambda parts: parts.ledger.heartbeats.lead("reaper", "worker", seconds=5),
    "beat": lambda parts: parts.ledger.heartbeats.beat(WORKER, seconds=5),
    "workers": lambda parts: parts.ledger.heartbeats.workers(),
    "run": lambda parts: parts.ledger.run("run"),
    "outcomes": lambda parts: parts.ledger.outcomes("run", "", limit=1, block_seconds=1),
    "acquire": lambda parts: parts.locks.acquire("lock"),
    "locks": lambda parts: parts.locks.locks(),
    "ask blobs": lambda parts: parts.shared_state.request_uploads("run", REPOSITORY, [BLOB], b"owner..."),
    "forget blobs": lambda parts: parts.shared_state.forget_blobs("run", REPOSITORY, [BLOB]),
    "once": lambda parts: parts.shared_state.get_or_compute(
        "page", "key", dict, ttl_seconds=1, wait_seconds=1
    ),
    "forget description": lambda parts: parts.descriptions.forget("storage", [STAGE]),
    "replace description": lambda parts: parts.descriptions.replace("storage", DESCRIPTION),
    "used images": lambda parts: parts.last_used.used_images("host"),
    "publish": WorkerContext.publish,
    "subscribe": WorkerContext.subscribe,
    "transaction": WorkerContext.transact,
    "pipeline": WorkerContext.pipe,
}
LOSSY: dict[str, tuple[object, Callable[[WorkerContext], object]]] = {
    "find": ([None], lambda parts: parts.descriptions.find("storage", [STAGE])),
    "remember": (None, lambda parts: parts.descriptions.remember("storage", [DESCRIPTION])),
    "last list": (None, lambda parts: parts.tag_lists.last_known("storage")),
    "keep list": (None, lambda parts: parts.tag_lists.remember("storage", StageIdList([STAGE]))),
    "add to list": (None, lambda parts: parts.tag_lists.add("storage", STAGE)),
    "note use": (None, lambda parts: parts.last_used.note("host", "image")),
}


@pytest.fixture
def parts(fake_redis, monkeypatch):
    monkeypatch.setattr("stagefleet.redis_pool.ExponentialWithJitterBackoff", lambda **_: NoBackoff())
    made = WorkerContext(fake_redis.url)
    yield made
    made.redis.close()


def told(error: BaseException) -> str:
    """What a person is told: one line, with the address, and none of what was sent."""
    text = str(error)
    assert "\n" not in text
    assert "127.0.0.1:" in text
    assert "hunter2" not in text
    assert "0a0a" not in text
    return text


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("answer", PASSING)
def test_what_passes_is_out_of_reach_on_every_path(parts, fake_redis, path, answer):
    """R8, W34: each answer that passes is out of reach for now, with Redis's own reason, whoever asked."""
    fake_redis.answer = b"-" + PASSING[answer].encode()
    with pytest.raises(RedisUnreachableError) as caught:
        PATHS[path](parts)
    assert (4, True) == (caught.value.exit_code, caught.value.retryable)
    assert any(word in told(caught.value) for word in ("refuses for now", "discarded"))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("answer", WRONG)
def test_what_does_not_pass_is_wrong_configuration_on_every_path(parts, fake_redis, path, answer):
    """R8, W35, U4: what waiting does not mend is wrong configuration, whoever asked."""
    fake_redis.answer = b"-" + WRONG[answer].encode()
    with pytest.raises(RedisConfigurationError) as caught:
        PATHS[path](parts)
    assert (2, False) == (caught.value.exit_code, caught.value.retryable)
    assert "refuses" in told(caught.value)


@pytest.mark.parametrize("path", LOSSY)
def test_what_may_be_lost_is_gone_without(parts, fake_redis, path):
    """R8: what the fleet remembers and may lose raises nothing, whatever Redis answers."""
    expected, call = LOSSY[path]
    for answer in (PASSING | WRONG).values():
        fake_redis.answer = b"-" + answer.encode()
        assert expected == call(parts)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (PASSING["disk full, in a script of Redis 6"], "(MISCONF Redis is configured to save RDB snapshots"),
        (PASSING["memory full, in a script"], "(OOM command not allowed when used memory > 'maxmemory'.)"),
        (PASSING["transaction, with a reason"], "because of: MISCONF Redis"),
        (PASSING["replica"], "(READONLY You can't write against a read only replica.): it is a replica"),
        (WRONG["cluster, in a script"], "cluster mode is not supported"),
        (WRONG["cluster, moved"], "(MOVED 1234 127.0.0.1:6381): cluster mode is not supported"),
        (WRONG["database"], "(DB index is out of range): correct DATABASE"),
        (
            WRONG["login missing"],
            "refuses the login (NOAUTH Authentication required.): correct user and password",
        ),
        (WRONG["rights"], "~stagefleet:*"),
        (
            WRONG["sentinel"],
            "(unknown command 'EVALSHA'): use a Valkey, or a Redis from 6.2 on, that is no Sentinel",
        ),
    ],
)
def test_the_line_names_the_reason_and_what_to_do(parts, fake_redis, answer, words):
    """R8: the line says Redis's own reason, and what a person can do."""
    fake_redis.answer = b"-" + answer.encode()
    with pytest.raises(StagefleetError) as caught:
        parts.ledger.claim("run", 0, "worker")
    assert words in told(caught.value)


@pytest.mark.parametrize(
    "answer", ["ERR syntax error", "WRONGTYPE Operation against a key holding the wrong kind of value"]
)
def test_what_is_a_bug_stays_one(parts, fake_redis, answer):
    """R8: an answer that only a bug can bring is told as one."""
    fake_redis.answer = b"-" + answer.encode()
    with pytest.raises(redis.ResponseError):
        parts.ledger.renew([CLAIM])


@pytest.mark.parametrize("garbage", [b"HTTP/1.1 400 Bad Request", b"SSH-2.0-OpenSSH_9.2", b"ERROR"])
def test_what_speaks_another_protocol_is_wrong_configuration(parts, fake_redis, garbage):
    """U4: what answers at the URL and is no Redis is named as such, and is no bug."""
    fake_redis.answer = garbage
    with pytest.raises(RedisConfigurationError, match="does not speak Redis's protocol") as caught:
        parts.ledger.run("run")
    assert 2 == caught.value.exit_code


def test_a_tls_alert_is_known_by_its_first_byte(parts, fake_redis):
    """U4: a server that answers plain words with a TLS alert is told as one that speaks TLS."""
    fake_redis.answer = b"\x15\x03\x03\x00\x02\x02\x46"
    with pytest.raises(RedisConfigurationError, match="write rediss://"):
        parts.ledger.run("run")


def test_a_login_that_is_refused_is_asked_once(fake_redis):
    """R8: a refused login is not tried again and again: some servers lock the user out."""
    fake_redis.answer = b"-WRONGPASS invalid username-password pair or user is disabled."
    client: Any = connect_redis(fake_redis.url)
    with client, pytest.raises(RedisConfigurationError), map_redis_errors(client):
        client.get("key")
    assert 1 == sum(command[0] == b"GET" for command in fake_redis.commands)


def test_a_server_that_refuses_as_no_primary_is_left_by_every_connection(redis_server, fake_redis):
    """R34: a refusal of a replica ends the connection, and idle ones too: the address is asked anew."""
    client: Any = connect_redis(fake_redis.url)
    pool = client.connection_pool
    held = [pool.get_connection(), pool.get_connection()]
    for connection in held:
        pool.release(connection)
    fake_redis.answer = lambda _: b"-" + READONLY.encode() if client.connection_pool is pool else b"+OK"
    pool.connection_kwargs["port"] = redis_server.port  # what the name of the primary leads to from now on
    for connection in held:
        connection.port = redis_server.port

    assert client.set("key", "text")

    client.close()
    assert b"text" == redis_server.client().get("key")


def test_an_interrupted_command_leaves_its_connection_to_nobody(redis_server):
    """R32: Ctrl-C between sending and reading leaves no answer behind that another command could read."""
    client: Any = connect_redis(redis_server.url)
    client.mset({"a": "1", "b": "2"})
    connection = client.connection_pool._available_connections[-1]
    read = connection.read_response

    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    connection.read_response = interrupt
    with pytest.raises(KeyboardInterrupt):
        client.get("a")
    connection.read_response = read

    assert b"2" == client.get("b")
    client.close()


def test_an_interrupted_script_leaves_its_connection_to_nobody(redis_server):
    client: Any = connect_redis(redis_server.url)
    script = Script(client, "return ARGV[1]")
    assert b"1" == script(1)
    connection = client.connection_pool._available_connections[-1]
    read = connection.read_response

    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    connection.read_response = interrupt
    with pytest.raises(KeyboardInterrupt):
        script(2)
    connection.read_response = read

    assert b"3" == script(3)
    client.close()


def test_a_script_is_called_again_on_a_new_connection(redis_server):
    client = connect_redis(redis_server.url)
    script = Script(client, "return ARGV[1]")
    assert b"1" == script(1)
    redis_server.client().client_kill_filter(_type="normal", skipme=True)
    assert b"2" == script(2)
    client.close()


def test_an_interrupted_pipeline_leaves_its_connection_to_nobody(redis_server):
    """R32: the same within a pipeline, of whose answers some are read."""
    client: Any = connect_redis(redis_server.url)
    client.mset({"a": "1", "b": "2"})
    connection = client.connection_pool._available_connections[-1]
    read, answers = connection.read_response, iter([True])

    def interrupt_at_the_second(*arguments: Any, **options: Any) -> Any:
        if next(answers, False):
            return read(*arguments, **options)
        raise KeyboardInterrupt

    connection.read_response = interrupt_at_the_second
    pipe = client.pipeline(transaction=False)
    pipe.get("a")
    pipe.get("a")
    with pytest.raises(KeyboardInterrupt):
        pipe.execute()
    connection.read_response = read

    assert b"2" == client.get("b")
    client.close()


def test_an_answer_of_an_error_keeps_its_connection(redis_server):
    """R32: an error that Redis answered was read whole: its connection is as good as before."""
    client: Any = connect_redis(redis_server.url)
    client.lpush("list", "1")
    connection = client.connection_pool._available_connections[-1]
    with pytest.raises(redis.ResponseError):
        client.get("list")
    assert connection.is_connected
    client.close()


def test_renewals_are_no_victims_of_a_flushed_script(redis_server):
    """R8: scripts that a server has forgotten are sent anew."""
    ledger = RedisLedger(connect_redis(redis_server.url), prefix="t:", settings=RunSettings())
    for _ in range(2):
        redis_server.client().script_flush()
        assert [RenewalResult.LOST] == ledger.renew([CLAIM])
    ledger.close()
