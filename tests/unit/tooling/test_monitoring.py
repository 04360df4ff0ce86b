"""Rules, dashboard, pages and the manifests of monitoring, held against the metrics that there are."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from scripts.docs_site import metrics_table
from stagefleet import errors
from stagefleet.redis_keys import COUNTERS, KEYS
from stagefleet.runs.metrics import METRICS

ROOT = Path(__file__).parents[3]
MONITORING = ROOT / "deploy/monitoring"
GROUPS = yaml.safe_load((MONITORING / "rules.yaml").read_text())["groups"]
RULES: list[dict[str, Any]] = [rule for group in GROUPS for rule in group["rules"]]
RECORDS = {rule["record"]: rule["expr"] for rule in RULES if "record" in rule}
ALERTS = {rule["alert"]: rule for rule in RULES if "alert" in rule}
DASHBOARD = json.loads((ROOT / "deploy/dashboards/stagefleet.json").read_text())
RUNBOOK = (ROOT / "docs/runbook.md").read_text()
KEDA = yaml.safe_load((MONITORING / "keda.yaml").read_text())
QUERIES = [rule["expr"] for rule in RULES] + [
    trigger["metadata"]["query"] for trigger in KEDA["spec"]["triggers"]
]
LABELS = {
    name + suffix: {*metric.labels, *(("le",) if suffix == "_bucket" else ())}
    for name, metric in METRICS.items()
    for suffix in (("_bucket", "_sum", "_count") if metric.type == "histogram" else ("",))
}


def anchor(heading: str) -> str:
    return re.sub(r"[^a-z0-9-]", "", heading.lower().replace(" ", "-"))


@pytest.mark.parametrize("query", QUERIES)
def test_a_rule_asks_for_metrics_and_labels_that_there_are(query: str):
    names = re.findall(r"\bstagefleet_\w+", query)
    assert names
    known = {label for name in names for label in LABELS[name]}
    asked = re.findall(r"(\w+)=~?\"", query)
    grouped = [label for by in re.findall(r"by \(([^)]*)\)", query) for label in by.split(", ")]
    assert set() == {*asked, *grouped} - known


def test_the_dashboard_asks_for_what_is_recorded_and_every_record_is_on_it():
    panels = DASHBOARD["panels"]
    asked = [target["expr"] for panel in panels for target in panel["targets"]]
    assert set(RECORDS) == {name for expr in asked for name in re.findall(r"stagefleet:[\w:]+", expr)}
    assert [] == [expr for expr in asked if "stagefleet_" in expr]
    assert len({panel["id"] for panel in panels}) == len(panels)


def test_the_value_of_each_metric_is_held_by_a_test():
    """Each has a value that a test of a real Redis compares: `found["NAME", LABEL...]`."""
    tests = ast.parse((ROOT / "tests/contract/test_metrics.py").read_text())
    looked_up = {
        str(name.value)
        for compared in ast.walk(tests)
        if isinstance(compared, ast.Assert)
        for key in ast.walk(compared)
        if isinstance(key, ast.Subscript) and isinstance(key.slice, ast.Tuple)
        for name in key.slice.elts[:1]
        if isinstance(name, ast.Constant)
    }
    held = {name.removesuffix("_sum") for name in looked_up}
    assert set() == set(METRICS) - held


def test_each_alert_has_a_test_in_which_it_fires():
    tests = yaml.safe_load((MONITORING / "rules-test.yaml").read_text())["tests"]
    fired = [
        case["alertname"] for test in tests for case in test["alert_rule_test"] if case.get("exp_alerts")
    ]
    assert list(ALERTS) == fired


@pytest.mark.parametrize("alert", ALERTS)
def test_the_runbook_has_each_alert_where_the_alert_says(alert: str):
    headings = {anchor(heading) for heading in re.findall(r"^#+ (.+)$", RUNBOOK, re.MULTILINE)}
    page, _, part = ALERTS[alert]["annotations"]["runbook"].partition("#")
    assert (ROOT / page).name == "runbook.md"
    assert part in headings
    assert ALERTS[alert]["labels"]["severity"] in {"critical", "warning", "info"}


def test_the_runbook_names_no_alert_that_is_not_there():
    assert set(ALERTS) == set(re.findall(r"^### (Stagefleet\w+)$", RUNBOOK, re.MULTILINE))


@pytest.mark.parametrize(
    "name", [name for name, kind in vars(errors).items() if isinstance(kind, type) and name.endswith("Error")]
)
def test_the_runbook_has_a_row_for_each_error(name: str):
    rows = re.findall(r"^\| `(\w+)` \| (.+) \| (.+) \| (.+) \|$", RUNBOOK, re.MULTILINE)
    found = [row for row in rows if row[0] == name]
    assert 1 == len(found)
    assert all(part.strip() for part in found[0])


def test_the_page_of_metrics_is_made_from_the_code():
    page = (ROOT / "docs/metrics.md").read_text()
    assert metrics_table() in page


def test_the_monitored_pods_and_the_scaled_workers_are_there():
    manifests = [
        one
        for path in (ROOT / "deploy/kubernetes").glob("*.yaml")
        for one in yaml.safe_load_all(path.read_text())
    ]
    workloads = {one["metadata"]["name"]: one for one in manifests if one["kind"] == "Deployment"}
    monitor = yaml.safe_load((MONITORING / "podmonitor.yaml").read_text())["spec"]
    exporter = workloads["exporter"]["spec"]
    assert monitor["selector"] == exporter["selector"]
    (container,) = exporter["template"]["spec"]["containers"]
    assert {port["name"] for port in container["ports"]} == {
        endpoint["port"] for endpoint in monitor["podMetricsEndpoints"]
    }
    assert KEDA["spec"]["scaleTargetRef"]["name"] in workloads


def test_counters_are_in_the_table_of_keys():
    assert COUNTERS in KEYS
