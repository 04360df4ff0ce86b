"""The demo as a user runs it: it tells the truth, and leaves nothing."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import docker
import pytest
from docker.errors import DockerException

from scripts.demo.fleet import DemoFleet
from scripts.demo.shell import Shell
from tests.documents import not_printed, snippets
from tests.services import (
    DockerEngine,
    ImageMaker,
    Program,
    ServiceMissingError,
    ServiceStartError,
    stagefleet_command,
)
from tests.services.processes import find_program

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

WAIT_SECONDS = 200
MOST_LINES = 50
LEFT = 78
"""Stages after the deletion."""
JOB = 4


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


@pytest.fixture
def engines_start(service_folder):
    """Whether Docker Engines can be started and filled here."""
    try:
        engine = DockerEngine(service_folder("engine"))
        try:
            return bool(engine.start().import_image("app:1"))
        finally:
            engine.stop()
    except (ServiceMissingError, ServiceStartError, DockerException):
        return False


@pytest.fixture
def fleet(tmp_path, cleanup):
    find_program("docker-registry", install="apt-get install docker-registry")
    return DemoFleet(Shell(tmp_path / "home", cleanup), cleanup)


def remains_of(folders, mark):
    """Folders, mounts in them, and processes that know of them or have the mark."""
    names = [os.fsencode(folder) for folder in folders]
    found = [folder for folder in folders if folder.exists()]
    mounts = Path("/proc/self/mountinfo").read_bytes().splitlines()
    found += [mount for mount in mounts if any(name in mount for name in names)]
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_bytes()
            facts = command + (entry / "environ").read_bytes()
        except OSError:  # it ended meanwhile, or is another user's
            continue
        if any(name in facts for name in [*names, mark.encode()]):
            found.append(command)
    return found


def images_of(engine_url):
    with closing(docker.DockerClient(base_url=engine_url)) as client:
        return sorted(tag for image in client.images.list() for tag in image.tags)


def stages_in(repository):
    host, _, path = repository.partition("/")
    with ImageMaker(host) as maker:
        return sorted(tag for tag in maker.tags(path) if tag != "v1.0")


def folders_of(pid):
    """The folders that a demo has open for itself while it runs."""
    links = [entry.readlink() for entry in Path(f"/proc/{pid}/fd").iterdir() if entry.is_symlink()]
    return [link.parent for link in links if link.name == ".owner"]


def shown_in_readme():
    """The lines of the story that README shows; `...` alone stands for others."""
    (text,) = [
        one.text
        for one in snippets()
        if one.page == "README.md" and "integration/demo compares" in one.not_run
    ]
    return [line for line in text.splitlines() if line != "..."]


def test_the_demo_checks_all_it_says_in_under_fifty_lines_can_be_kept_and_leaves_nothing(
    start, mark, engines_start
):
    demo = start(KEEP="1")
    demo.wait_for("ends it", seconds=WAIT_SECONDS)
    folders = folders_of(demo.pid)
    story, _, help_text = demo.printed().partition("\nKEEP:")
    assert (6 if engines_start else 5) == story.count("checked: "), story
    assert engines_start == ("# Left out" not in story), story
    if engines_start:
        assert [] == not_printed(shown_in_readme(), story), story
    assert len(story.splitlines()) + len(["Everything ... is gone"]) < MOST_LINES, story
    variables = dict(re.findall(r"\b([A-Z_]+)=(\S+)", help_text))
    assert LEFT == len(stages_in(variables["SRC"]))
    assert stages_in(variables["SRC"]) == stages_in(variables["FINAL"])
    job = stages_in(variables["SRC"])[:JOB] if engines_start else []
    assert job == stages_in(variables["CACHE"])
    fetched = [f"{variables['SRC']}:{stage_id}" for stage_id in job]
    machines = re.findall(r"docker -H (unix://\S+)", help_text)
    assert [fetched] * (2 if engines_start else 0) == list(map(images_of, machines))
    shown = subprocess.run(
        stagefleet_command("runs", "list"),
        env={"PATH": os.environ["PATH"], "STAGEFLEET_REDIS_URL": variables["STAGEFLEET_REDIS_URL"]},
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "publish_stage" in shown.stdout
    demo.signal(signal.SIGTERM)
    assert 0 == demo.wait(WAIT_SECONDS), demo.printed() + demo.logged()
    assert "" == demo.logged()
    assert folders
    assert [] == remains_of(folders, mark)


@pytest.mark.parametrize("moment", ["starting a private Valkey", "stagefleet flower"])
def test_an_interrupted_demo_leaves_nothing(start, mark, moment):
    demo = start()
    demo.wait_for(moment, seconds=WAIT_SECONDS)
    folders = folders_of(demo.pid)
    demo.signal(signal.SIGINT)
    assert 130 == demo.wait(WAIT_SECONDS), demo.printed() + demo.logged()
    assert folders
    assert [] == remains_of(folders, mark)


def test_where_no_engine_gets_ready_the_demo_knows_why(fleet, tmp_path, monkeypatch):
    program = tmp_path / "dockerd"
    program.write_text("#!/bin/sh\necho 'failed to start daemon: no cgroup is mounted' >&2\nexit 1\n")
    program.chmod(0o700)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    fleet.start_engines()
    assert ({}, "failed to start daemon: no cgroup is mounted") == (fleet.engines, fleet.missing)


def test_a_user_who_may_not_start_engines_is_told_so(fleet, monkeypatch):
    find_program("dockerd", install="apt-get install docker.io")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    fleet.start_engines()
    assert ({}, "dockerd needs root") == (fleet.engines, fleet.missing)
