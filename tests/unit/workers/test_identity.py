"""The names of worker processes."""

import os
import re
import socket

import pytest

from stagefleet.processes import machine_hash
from stagefleet.runs.models import WorkerInfo
from stagefleet.settings import WorkerSettings
from stagefleet.testing import MemoryLedger
from workers.health import count_workers, make_name, pool_of

HERE = WorkerSettings(name="build-1")


def test_two_processes_with_one_host_name_and_one_id_have_two_names(monkeypatch):
    """O-A9, W36: host name and process id are not enough, as containers share both."""
    monkeypatch.setattr(os, "getpid", lambda: 2)
    monkeypatch.setattr(socket, "gethostname", lambda: "vm")
    names = {make_name(WorkerSettings()) for _ in range(100)}
    assert 100 == len(names)
    assert all(re.fullmatch(r"worker-2@vm-[0-9a-f]{8}-[0-9a-f]{6}", name) for name in names)


def test_a_name_of_ones_own_stands_in_place_of_the_host_s():
    """O-A9: what a person calls a worker stays readable."""
    assert make_name(HERE).startswith(f"worker-{os.getpid()}@build-1-")


@pytest.mark.parametrize("part", ["boot", "namespace"])
def test_another_container_or_machine_is_another_place(tmp_path, part):
    """O-A9, W36: the place is told by the boot of the machine and the namespace of process ids."""

    def place(boot: str, namespace: str) -> str:
        (tmp_path / "boot").write_text(boot)
        (tmp_path / "pid").unlink(missing_ok=True)
        (tmp_path / "pid").symlink_to(namespace)
        return machine_hash(tmp_path / "boot", tmp_path / "pid")

    here = place("a", "pid:[1]")
    assert here == place("a", "pid:[1]")
    assert here != (place("b", "pid:[1]") if part == "boot" else place("a", "pid:[2]"))


def test_where_nothing_is_told_of_the_place_names_differ_all_the_same(monkeypatch, tmp_path):
    """O-A9: a system without these files has workers too."""
    monkeypatch.setattr(
        "workers.health.machine_hash", lambda: machine_hash(tmp_path / "none", tmp_path / "none")
    )
    assert make_name(HERE) != make_name(HERE)


@pytest.mark.parametrize(
    ("other", "counted"),
    [
        (make_name(HERE), 2),
        ("worker-2@build-1-00000000-abcdef", 1),
        (make_name(WorkerSettings(name="build-10")), 1),
        (make_name(WorkerSettings(name="my-build-1")), 1),
        ("worker-2@build-1", 1),
    ],
    ids=["a second one here", "elsewhere", "a longer name", "a name that ends so", "an old name"],
)
def test_a_health_check_counts_no_worker_of_another_place_or_name(other, counted):
    """O-A9, W36: a worker that lives elsewhere under the same host name does not vouch for one here."""
    ledger = MemoryLedger()
    for name in (make_name(HERE), other):
        ledger.heartbeats.beat(WorkerInfo(name=name, slots=1, queues=("copy",)), seconds=60)
    assert counted == count_workers(ledger.heartbeats, pool_of(HERE))
