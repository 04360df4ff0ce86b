"""Reports of long runs, whose outcomes are written through the ledger without workers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from junitparser import JUnitXml

from scripts.bench.memory import report_memory
from scripts.bench.pages import fill
from stagefleet import Fleet
from tests.services import RedisServer

FEW, MANY = 2_000, 20_000
MOST_MIB = 4
"""What the longer report may take more: some 200 bytes an item would be too much."""


def test_the_memory_of_a_report_does_not_grow_with_its_run(redis_server: RedisServer, tmp_path: Path):
    few, _ = report_memory(redis_server.url, fill(redis_server.url, runs=1, items=FEW), tmp_path)
    run_id = fill(redis_server.url, runs=1, items=MANY)
    many, _ = report_memory(redis_server.url, run_id, tmp_path)
    assert many - few < MOST_MIB
    (suite,) = JUnitXml.fromstring((tmp_path / "report.xml").read_bytes())
    assert (MANY, MANY // 100) == (suite.tests, suite.failures)
    assert (tmp_path / "report.html").stat().st_size < 1_000_000
    with Fleet.connect(redis_server.url) as fleet:
        document: dict[str, Any] = fleet.report(run_id).as_json()
        fleet.cancel(run_id)
    assert (MANY + 1, 1, MANY // 100) == (document["total"], document["left"], document["failed"])
    assert len(json.dumps(document)) < 200_000
