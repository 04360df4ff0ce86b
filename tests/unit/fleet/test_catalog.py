"""The catalog names each operation once; what knows of operations derives from it."""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys

import pytest

from stagefleet.fleet.requests import RunRequest
from stagefleet.operations import catalog
from stagefleet.runs.messages import QUEUES
from workers.context import ITEM_FUNCTIONS


def test_every_entry_has_one_item_task_and_every_item_task_one_entry():
    modules = {entry.module for entry in catalog.OPERATIONS.values()}
    functions = [
        name
        for module in sorted(modules)
        for name, value in vars(importlib.import_module(f"tasks.{module}")).items()
        if not name.startswith("_")
        and inspect.isfunction(value)
        and value.__module__ == f"tasks.{module}"
        and list(inspect.signature(value).parameters) == ["storages", "attempt"]
    ]
    assert sorted(catalog.OPERATIONS) == sorted(functions)
    assert {name: ITEM_FUNCTIONS[name].__name__ for name in functions} == {name: name for name in functions}


@pytest.mark.parametrize("name", catalog.OPERATIONS)
def test_an_entry_leads_to_the_operation_of_its_name(name):
    operation = catalog.OPERATIONS[name].load()
    assert name == operation.name
    assert operation is catalog.find_operation(name)
    assert operation.past
    assert operation.reads in operation.model_fields
    assert operation.writes in {"", *operation.model_fields}


def test_each_class_has_one_entry():
    homes = [entry.home for entry in catalog.OPERATIONS.values()]
    assert sorted(homes) == sorted(set(homes))


def test_queues_are_those_of_the_entries_and_of_the_tasks_of_every_worker():
    assert {name: entry.queue for name, entry in catalog.OPERATIONS.items()} | {
        "coordinate": "coordinate",
        "start_run": "coordinate",
    } == QUEUES


@pytest.mark.parametrize("name", catalog.REQUESTS)
def test_a_request_sets_options_of_its_operation_alone(name):
    request = catalog.REQUESTS[name]
    own = {"host", "all_hosts"}  # of the request; they become `hosts`
    build = request.load()
    options = getattr(build, "model_fields", None) or {"repository", "kind", "final", "hosts"}
    assert set(request.arguments) - own <= set(options)
    assert {"also", "unfinished"}.isdisjoint(request.arguments), "what a purge alone may say"


@pytest.mark.parametrize(
    ("operation", "arguments"),
    [
        ("copy", {"source": "a.test/app", "destination": "b.test/app", "foreign_layers": True}),
        ("delete", {"repository": "a.test/app", "stage_ids": [f"{1:056x}-1700000000000"]}),
        ("publish", {"primary": "a.test/app", "final": "b.test/app"}),
    ],
)
def test_a_request_may_ask_for_referrers(operation, arguments):
    """Also where commands and Python do not reach: Celery applications, and the API over HTTP."""
    for wanted in (True, False):
        request = RunRequest.parse((), {"operation": operation, "referrers": wanted, **arguments})
        assert not isinstance(request.project, str)
        assert wanted == request.build(request.project).options.get("referrers", operation == "publish")


def test_an_operation_is_loaded_without_the_others():
    program = (
        "import sys; from stagefleet.operations import catalog; catalog.find_operation('copy_stage'); "
        "print(*sorted(name for name in sys.modules if name.startswith('stagefleet.operations.')))"
    )
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ["base", "catalog", "copy"] == [
        name.removeprefix("stagefleet.operations.") for name in loaded.stdout.split()
    ]
