"""The demo as a user runs it: it tells the truth, and leaves nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.services import Program
from tests.services.processes import find_program

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

WAIT_SECONDS = 200
MOST_LINES = 40


@pytest.fixture
def mark(tmp_path):
    """A variable that all of a demo's processes inherit, by which they are found."""
    return f"DEMO_UNDER_TEST={tmp_path}"


@pytest.fixture
def start(tmp_path, mark, cleanup):
    find_program("docker-registry", install="apt-get install docker-registry")

    def start(**variables):
        name, _, text = mark.partition("=")
        demo = Program(
            [sys.executable, "-m", "scripts.demo"],
            folder=tmp_path,
            name="demo",
            environment={**os.environ, "KEEP": "", name: text, **variables},
        )
        cleanup.callback(demo.stop)
        return demo

    return start


def processes_with(mark):
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (entry / "environ").read_bytes():
                found.append((entry / "cmdline").read_bytes())
        except OSError:  # it ended meanwhile, or is another user's
            continue
    return found


def folders_of(pid):
    """The folders that a demo has open for itself while it runs."""
    links = [entry.readlink() for entry in Path(f"/proc/{pid}/fd").iterdir() if entry.is_symlink()]
    return [link.parent for link in links if link.name == ".owner"]


def test_the_demo_checks_all_it_says_in_under_forty_lines_can_be_kept_and_leaves_nothing(start, mark):
    demo = start(KEEP="1")
    url = demo.wait_for(r"STAGEFLEET_REDIS_URL=(redis://\S+)\n[\s\S]*ends it", seconds=WAIT_SECONDS)[1]
    folders = folders_of(demo.pid)
    story, _, _ = demo.printed().partition("\nKEEP:")
    assert 6 == story.count("checked: "), story
    assert len(story.splitlines()) + len(["Everything ... is gone"]) < MOST_LINES, story
    shown = subprocess.run(
        [sys.executable, "-I", "-c", "from stagefleet.cli import main; main()", "runs", "list"],
        env={"PATH": os.environ["PATH"], "STAGEFLEET_REDIS_URL": url},
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "copy_stage" in shown.stdout
    demo.signal(signal.SIGTERM)
    assert 0 == demo.wait(WAIT_SECONDS), demo.printed() + demo.logged()
    assert "" == demo.logged()
    assert [] == processes_with(mark)
    assert [False] == [folder.exists() for folder in folders]


def test_an_interrupted_demo_leaves_nothing(start, mark):
    demo = start()
    demo.wait_for("starting a private Valkey|stagefleet copy")
    folders = folders_of(demo.pid)
    demo.signal(signal.SIGINT)
    assert 130 == demo.wait(WAIT_SECONDS), demo.printed() + demo.logged()
    assert [] == processes_with(mark)
    assert [False] == [folder.exists() for folder in folders]
