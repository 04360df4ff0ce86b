"""Secrets planted in every place that has one, and looked for in all that a whole fleet writes and shows."""

import base64
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
import requests

from stagefleet.processes import isolated_command
from stagefleet.redaction import _base64_forms
from stagefleet.redis_client import connect_redis
from tests.integration.workers.conftest import LIMIT_SECONDS, eventually
from tests.services import clean_environment, stagefleet_command
from tests.services.images import push_stages
from tests.services.receiver import WebhookReceiver

REDIS = "planted/redis#pass?word@1:%"
REGISTRY = "planted/registry#pass?word@1"
HOOK_PATH, HOOK_QUERY = "planted-hook-path-0123", "planted-hook-query-0123"
HOOK_SECRET = "whsec_" + base64.b64encode(b"planted webhook secret, 32 bytes").decode()
FLOWER = "planted-flower-password"
PROXY = "planted-proxy-password"
TYPED = "planted-typed-password"
PLANTED = (REDIS, REGISTRY, HOOK_PATH, HOOK_QUERY, HOOK_SECRET, FLOWER, PROXY, TYPED)
TOKEN = "eyJhbGciOi"
"""How every token of the token server begins."""


def found_in(text: str) -> list[str]:
    """The planted secrets that a text holds: as they are, percent-encoded, in JSON and in base64."""
    hits = [TOKEN] if TOKEN in text else []
    for secret in PLANTED:
        forms = {secret, quote(secret, safe=""), quote(secret), json.dumps(secret)[1:-1]}
        hits += [form for form in (*forms, *_base64_forms(secret.encode())) if form in text]
    return hits


def command_lines() -> str:
    lines = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                lines.append((entry / "cmdline").read_bytes().decode(errors="replace"))
            except OSError:
                continue  # it has ended
    return "\n".join(lines)


@pytest.fixture
def redis_url(make_redis) -> str:
    server = make_redis()
    client = server.client()
    client.execute_command("ACL", "SETUSER", "planted-user", "on", f">{REDIS}", "~*", "&*", "+@all")
    client.execute_command("ACL", "SETUSER", "default", "off")
    return f"redis://planted-user:{quote(REDIS, safe='')}@{server.host}/0"


@pytest.fixture
def registry(make_registry, make_token_server):
    return make_registry(token=make_token_server(users={"ann": REGISTRY}))


@pytest.fixture
def environment(redis_url, registry, tmp_path) -> dict[str, str]:
    entry = {"auth": base64.b64encode(f"ann:{REGISTRY}".encode()).decode()}
    (tmp_path / "config.json").write_text(json.dumps({"auths": {registry.host: entry}}))
    return clean_environment(
        HOME=str(tmp_path),
        DOCKER_CONFIG=str(tmp_path),
        STAGEFLEET_REDIS_URL=redis_url,
        STAGEFLEET_LOG__LEVEL="debug",
        STAGEFLEET_WEBHOOKS__SECRET=HOOK_SECRET,
        STAGEFLEET_FLOWER__USER="me",
        STAGEFLEET_FLOWER__PASSWORD=FLOWER,
        http_proxy=f"http://me:{PROXY}@127.0.0.1:1",
    )


@pytest.fixture
def run(environment, tmp_path):
    """Runs a command; gives its exit code and all that it wrote, and looks at the process list meanwhile."""

    def run(*arguments: str, typed: str = "", **variables: str) -> tuple[int, str]:
        process = subprocess.Popen(
            stagefleet_command(*arguments),
            env=environment | variables,
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        cmdline = Path(f"/proc/{process.pid}/cmdline")
        eventually(lambda: arguments[0].encode() in cmdline.read_bytes(), "it runs")
        listed = command_lines()
        if typed:
            assert typed in listed, "who types a URL shows it to the machine"
            listed = listed.replace(typed, "")
        said, _ = process.communicate(timeout=LIMIT_SECONDS)
        assert [] == found_in(listed)
        return process.returncode, said

    return run


@pytest.fixture
def flower(environment, tmp_path) -> Iterator[tuple[str, Path]]:
    log = tmp_path / "flower.log"
    with log.open("wb") as stderr:
        command = [*isolated_command("config.flower"), "--port", "0"]
        process = subprocess.Popen(command, env=environment, cwd=tmp_path, stderr=stderr)
    lines = eventually(lambda: [line for line in log.read_text().splitlines() if '"ready"' in line], "ready")
    yield json.loads(lines[0])["url"], log
    process.kill()
    process.wait()


def test_a_fleet_at_work_shows_no_planted_secret(environment, registry, redis_url, run, flower, make_workers):
    """R16: logs at debug, commands, Flower's pages and API, messages in Redis, the process list."""
    shown: dict[str, str] = {}
    stages = [str(pushed.tag) for pushed in push_stages(registry, "app/stages", 3)]
    source, destination = f"{registry.host}/app/stages", f"{registry.host}/app/copy"
    address, flower_log = flower
    with WebhookReceiver() as receiver, requests.Session() as browser:
        browser.auth = ("me", FLOWER)
        hook = f"{receiver.url}/{HOOK_PATH}?token={HOOK_QUERY}"

        # what a run's messages hold while no worker takes them
        callbacks = ("--on-outcome-url", hook, "--on-finish-url", hook)
        code, shown["detached"] = run(
            "copy", source, destination, stages[0], "--detach", *callbacks, typed=hook
        )
        assert 0 == code, shown["detached"]
        with connect_redis(redis_url) as client:
            (message,) = client.lrange("stagefleet:mq:copy", 0, -1)
            shown["message"] = message.decode()

        workers = make_workers(redis_url, environment=environment)
        receiver.wait_for(lambda calls: len(calls) == 2)
        request = {
            "operation": "copy",
            "source": source,
            "destination": destination,
            "on_outcome_url": hook,
            "on_finish_url": hook,
        }
        post = f"{address}/api/task/async-apply/stagefleet.start_run"
        wrong = request | {"source": f"me:{TYPED}@{registry.host}/app/stages"}
        ids = [
            browser.post(post, json={"kwargs": kwargs}, timeout=LIMIT_SECONDS).json()["task-id"]
            for kwargs in (request, wrong)
        ]
        receiver.wait_for(lambda calls: len(calls) == 5)
        eventually(lambda: "run_not_started" in workers.logged(), "the other one is refused")

        for name, arguments in {
            "doctor": ("doctor", source),
            "runs": ("runs", "list", "--json"),
            "config": ("config", "show", "--json"),
            "embedded": ("copy", source, f"{registry.host}/app/other", "--embedded", "--json"),
            "typed": ("list", f"https://me:{TYPED}@{registry.host}/app/stages"),
        }.items():
            code, shown[name] = run(*arguments, typed=TYPED if name == "typed" else "")
            assert (2 if name == "typed" else 0) == code, shown[name]
        for number, url in enumerate(
            [
                f"redis://me:{REDIS}@127.0.0.1:1/0",
                f"redis://me:{quote(REDIS, safe='')}@127.0.0.1:1/0",
                f"redis://127.0.0.1:1/0?password={quote(REDIS, safe='')}",
                redis_url.replace("planted-user", "nobody"),
                f"redis://me:{TYPED}@[::1/0",
            ]
        ):
            code, shown[f"doctor {number}"] = run("doctor", STAGEFLEET_REDIS_URL=url)
            assert code in {2, 4}, shown[f"doctor {number}"]

        def tasks() -> dict[str, dict[str, str]]:
            found: dict[str, dict[str, str]] = browser.get(
                f"{address}/api/tasks", timeout=LIMIT_SECONDS
            ).json()
            return found if set(ids) <= found.keys() else {}

        listed = eventually(tasks, "Flower knows the requests")
        assert "http://127.0.0.1" in listed[ids[0]]["kwargs"]
        workers_page = browser.get(f"{address}/workers?json=1", timeout=LIMIT_SECONDS)
        (name,) = {worker["hostname"] for worker in workers_page.json()["data"]}
        pages = ["workers", "tasks", "broker", f"worker/{name}", "api/tasks", "api/workers?refresh=1"]
        pages += [f"{kind}/{task}" for kind in ("task", "api/task/info") for task in ids]
        for page in pages:
            answer = browser.get(f"{address}/{page}", timeout=LIMIT_SECONDS)
            assert 200 == answer.status_code, page
            shown[page] = answer.text
    shown["process list"] = command_lines()
    shown["worker"], shown["flower"] = workers.logged(), flower_log.read_text()
    assert [] == [(where, hits) for where, text in shown.items() if (hits := found_in(text))]
