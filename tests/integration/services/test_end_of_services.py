from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.services import Program, ServiceMissingError, make_workspace
from tests.services.processes import find_program, wait_until

_OWNER = """
import sys
from tests.services import RedisServer, RegistryServer, make_workspace
with make_workspace() as folder:
    services = [RegistryServer(folder / "registry").start(), RedisServer(folder / "redis").start()]
    print(folder, *[service.pid for service in services], flush=True)
    sys.stdin.read()
"""
_ROOT = Path(__file__).parents[3]


def _is_running(pid: int) -> bool:
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a child with its parent")
def test_services_of_a_killed_owner_end_and_the_next_owner_removes_their_folder():
    with subprocess.Popen(
        [sys.executable, "-c", _OWNER], cwd=_ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as owner:
        assert owner.stdout is not None
        folder, *pids = owner.stdout.readline().split()
        assert [True, True] == [_is_running(int(pid)) for pid in pids]
        os.kill(owner.pid, signal.SIGKILL)
        owner.wait()
    wait_until(lambda: not any(_is_running(int(pid)) for pid in pids), "the services end")
    assert Path(folder).is_dir()
    with make_workspace():
        assert not Path(folder).exists()


def test_folder_of_a_living_owner_is_left_alone():
    with make_workspace() as first, make_workspace() as second:
        assert first != second
        assert (True, True) == (first.is_dir(), second.is_dir())
    assert (False, False) == (first.exists(), second.exists())


def test_folder_that_could_not_be_removed_at_once_is_removed_later():
    with make_workspace() as folder:
        half = Path(tempfile.mkdtemp(prefix="stagefleet-services-", dir=folder.parent))
        with make_workspace():
            assert half.exists(), "it may be just being made"
        os.utime(half, (0, 0))
        with make_workspace():
            assert not half.exists()


def test_stop_ends_a_program_that_is_frozen_or_deaf_with_its_children(tmp_path):
    program = Program(
        ["sh", "-c", "trap '' TERM; sleep 60 & echo child $!; wait; wait"], folder=tmp_path, name="deaf"
    )
    child = int(program.wait_for(r"child (\d+)")[1])
    program.signal(signal.SIGSTOP)
    program.stop(seconds=0.05)
    assert -signal.SIGKILL == program.returncode
    wait_until(lambda: not _is_running(child), "the child ends")


def test_missing_program_says_what_to_install():
    with pytest.raises(ServiceMissingError, match="no-such-program is missing: install it"):
        find_program("no-such-program", install="install it")


@pytest.mark.parametrize(("ci", "outcome"), [({}, "1 skipped"), ({"CI": "1"}, "1 error")])
def test_missing_service_skips_its_tests_but_fails_them_in_ci(ci, outcome):
    wanted = f"{Path(__file__).with_name('test_services.py')}::test_registry_is_empty_for_each_test"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", wanted],
        env={"PATH": "/nowhere", **ci},
        cwd=_ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert outcome in done.stdout
    assert "apt-get install docker-registry" in done.stdout
