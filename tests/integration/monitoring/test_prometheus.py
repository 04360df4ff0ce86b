"""Prometheus and its tools on the exporter of a real fleet."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import urlencode
from urllib.request import ProxyHandler, build_opener

import pytest
import yaml

from stagefleet import CopyOperation, Fleet
from tests.services import Program, RedisServer, clean_environment, free_port, stagefleet_command
from tests.services.images import push_stages
from tests.services.processes import find_program, wait_until

MONITORING = Path(__file__).parents[3] / "deploy/monitoring"
INSTALL = "apt-get install prometheus"
OPEN = build_opener(ProxyHandler({})).open
WAIT_SECONDS = 60


def promtool(*arguments: str | Path, data: bytes | None = None) -> str:
    done = subprocess.run(
        [find_program("promtool", install=INSTALL), *map(str, arguments)],
        input=data,
        capture_output=True,
        cwd=MONITORING,
        check=False,
        timeout=WAIT_SECONDS,
    )
    assert done.returncode == 0, done.stdout.decode() + done.stderr.decode()
    return (done.stdout + done.stderr).decode()


def test_the_rules_are_rules_and_each_alert_fires():
    assert "SUCCESS" in promtool("check", "rules", "rules.yaml")
    assert "SUCCESS" in promtool("test", "rules", "rules-test.yaml")


class Exporter:
    """`stagefleet exporter` on a fleet's Redis."""

    def __init__(self, redis_url: str, folder: Path) -> None:
        environment = clean_environment(STAGEFLEET_REDIS_URL=redis_url, HOME=str(folder))
        command = stagefleet_command("exporter", "--port", "0")
        self.program = Program(command, folder=folder, name="exporter", environment=environment)
        self.url = self.program.wait_for(r"metrics at (http://\S+)")[1]

    def scrape(self) -> str:
        with OPEN(self.url, timeout=WAIT_SECONDS) as answer:
            text: str = answer.read().decode()
            return text

    def stop(self) -> None:
        if self.program.alive:
            self.program.signal(signal.SIGTERM)
            assert 0 == self.program.wait(WAIT_SECONDS)


class Prometheus:
    """Debian's Prometheus with the fleet's rules; alerts fire at once."""

    def __init__(self, target: str, folder: Path) -> None:
        rules = yaml.safe_load((MONITORING / "rules.yaml").read_text())
        for group in rules["groups"]:
            for rule in group["rules"]:
                rule.pop("for", None)
        (folder / "rules.yaml").write_text(yaml.safe_dump(rules))
        config = {
            # A scrape that a slow machine misses would make all series stale.
            "global": {"scrape_interval": "2s", "scrape_timeout": "2s", "evaluation_interval": "1s"},
            "rule_files": ["rules.yaml"],
            "scrape_configs": [{"job_name": "stagefleet", "static_configs": [{"targets": [target]}]}],
        }
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        port = free_port()
        self._url = f"http://127.0.0.1:{port}"
        self.program = Program(
            [
                find_program("prometheus", install=INSTALL),
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            folder=folder,
            name="prometheus",
        )

    def ask(self, path: str, **arguments: str) -> Any:
        with OPEN(f"{self._url}/api/v1/{path}?{urlencode(arguments)}", timeout=WAIT_SECONDS) as answer:
            return json.load(answer)["data"]

    def value(self, query: str) -> float | None:
        try:
            found = self.ask("query", query=query)["result"]
        except (URLError, ConnectionError):
            return None
        return float(found[0]["value"][1]) if found else None

    def fires(self, alert: str) -> bool:
        return any(
            found["labels"]["alertname"] == alert and found["state"] == "firing"
            for found in self.ask("alerts")["alerts"]
        )

    def wait_for(self, query: str, expected: float) -> None:
        wait_until(lambda: self.value(query) == expected, f"{query} is {expected}", seconds=WAIT_SECONDS)


@pytest.fixture
def started(cleanup: ExitStack, tmp_path: Path) -> Callable[[RedisServer], tuple[Exporter, Prometheus]]:
    def start(server: RedisServer) -> tuple[Exporter, Prometheus]:
        exporter = Exporter(server.url, tmp_path)
        cleanup.callback(exporter.stop)
        prometheus = Prometheus(exporter.url.split("/")[2], tmp_path)
        cleanup.callback(prometheus.program.kill)
        return exporter, prometheus

    return start


def test_prometheus_scrapes_a_fleet_and_calls_for_workers_when_they_are_gone(
    make_redis: Callable[..., RedisServer],
    make_workers: Callable[..., Any],
    registry: Any,
    started: Callable[[RedisServer], tuple[Exporter, Prometheus]],
):
    server = make_redis()
    exporter, prometheus = started(server)
    promtool("check", "metrics", data=exporter.scrape().encode())
    workers = make_workers(server.url, concurrency=2)
    push_stages(registry, "app/stages", 3)
    source, destination = f"{registry.host}/app/stages", f"{registry.host}/app/mirror"
    with Fleet.connect(server.url) as fleet:
        fleet.for_each_copy_stage(source, destination)
        prometheus.wait_for('stagefleet_items_total{operation="copy_stage",state="succeeded"}', 3)
        prometheus.wait_for('stagefleet_attempt_duration_seconds_count{operation="copy_stage"}', 3)
        # The worker counts this itself, and its heartbeat brings it.
        prometheus.wait_for(f'stagefleet_registry_attempts_total{{registry="{registry.host}",end="done"}}', 3)
        prometheus.wait_for("stagefleet:wanted_slots", 0)
        prometheus.wait_for("sum(stagefleet:workers)", 1)
        prometheus.wait_for('stagefleet_attempt_duration_seconds_sum{operation="copy_stage"} > bool 0', 1)
        assert not prometheus.fires("StagefleetNoWorker")
        workers.stop()
        copy = CopyOperation.model_validate({"source": source, "destination": f"{registry.host}/app/other"})
        run = fleet.start(copy)
        prometheus.wait_for("stagefleet:wanted_slots", 3)
        wait_until(lambda: prometheus.fires("StagefleetNoWorker"), "the alert fires", seconds=WAIT_SECONDS)
        fleet.cancel(run.id)
    prometheus.wait_for("stagefleet:wanted_slots", 0)
    server.stop()
    prometheus.wait_for("stagefleet_up", 0)
    wait_until(lambda: prometheus.fires("StagefleetRedisDown"), "the alert fires", seconds=WAIT_SECONDS)
    server.start()
    prometheus.wait_for("stagefleet_up", 1)
