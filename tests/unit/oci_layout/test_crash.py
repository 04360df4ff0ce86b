"""A crash at any step leaves a valid layout, and the next writer goes on from there."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from stagefleet.oci_layout.directory import _NewFile as NewFile
from stagefleet.oci_layout.layout import OciLayout
from tests.unit.oci_layout.conftest import blobs_of, digests_of, image

STEPS = ("os.fsync", "os.link", "os.replace", "os.unlink", "os.mkdir")


class Crash(BaseException):
    """The end of the process, as no code of it can catch it."""


class CrashPoint:
    """Crashes before the step of a number; after it no step succeeds, and nothing is tidied up."""

    def __init__(self, patch, number):
        self.left = number
        for name in STEPS:
            module, _, function = name.partition(".")
            patch.setattr(sys.modules[module], function, self.stepped(getattr(os, function)))
        patch.setattr(NewFile, "write", self.stepped(NewFile.write))
        patch.setattr(NewFile, "__init__", self.stepped(NewFile.__init__))

    def stepped(self, function):
        def step(*arguments, **options):
            self.left -= 1
            if self.left < 0:
                raise Crash
            return function(*arguments, **options)

        return step


def assert_valid(path):
    """Assert what the specification asks of a layout, and that all that has a name is whole."""
    names = {found.name for found in path.iterdir() if not found.name.startswith(".stagefleet-")}
    if "oci-layout" not in names:
        assert {"index.json", "blobs"} >= names  # no layout yet
        return
    assert {"imageLayoutVersion": "1.0.0"} == json.loads((path / "oci-layout").read_bytes())
    assert {"oci-layout", "index.json", "blobs"} >= names
    for blob in (path / "blobs").glob("sha256/*"):
        assert blob.name == hashlib.sha256(blob.read_bytes()).hexdigest()
    layout = OciLayout(path)
    for tag in layout.tags():
        manifest = layout.fetch_manifest(layout.resolve(tag).digest)
        assert manifest.config is not None
        assert all(layout.has_blob(part) for part in (manifest.config, *manifest.layers))


ONE, TWO, THREE = image("one"), image("two"), image("three")


def write_and_delete(layout):
    ONE.write(layout, "v1")
    TWO.write(layout, "v2")
    THREE.write(layout, "v1")
    image("signature", subject=TWO.descriptor).write(layout, "signature")
    layout.delete("v2")
    layout.delete("v1")


def test_a_crash_at_any_step_leaves_a_valid_layout(service_folder):
    for number in itertools.count():
        path = service_folder("layout")
        path.mkdir()
        with pytest.MonkeyPatch.context() as patch:
            CrashPoint(patch, number)
            try:
                write_and_delete(OciLayout(path))
                break
            except Crash:
                pass
        assert_valid(path)
        TWO.write(OciLayout(path), "v2")
        THREE.write(OciLayout(path), "v3")
        assert_valid(path)
        assert {"v2", "v3"} <= set(OciLayout(path).tags())
        assert digests_of(TWO, THREE) <= blobs_of(path)
        assert {"oci-layout", "index.json", "blobs"} == {found.name for found in path.iterdir()}
    assert number > 50


def test_a_deletion_that_crashed_is_finished_by_the_next(service_folder):
    """Blobs that it left behind without a name go once the stage is written and deleted again."""
    for number in itertools.count():
        path = service_folder("layout")
        layout = OciLayout(path)
        ONE.write(layout, "v1")
        TWO.write(layout, "v2")
        with pytest.MonkeyPatch.context() as patch:
            CrashPoint(patch, number)
            try:
                layout.delete("v1")
                break
            except Crash:
                pass
        assert_valid(path)
        layout.delete("v1")
        assert ["v2"] == list(layout.tags())
        ONE.write(layout, "v1")
        layout.delete("v1")
        assert digests_of(TWO) == blobs_of(path)
    assert number > 4


WRITER = """
import itertools, sys
from pathlib import Path
from stagefleet.oci_layout.layout import OciLayout
from tests.unit.oci_layout.conftest import image

layout = OciLayout(Path(sys.argv[1]))
print("ready", flush=True)
for number in itertools.count(int(sys.argv[2])):
    image(f"stage {number}", layers=("shared", "own", "x" * 300_000)).write(layout, f"v{number % 50}")
    if number % 7 == 0:
        layout.delete(f"v{(number - 3) % 50}")
"""


def test_a_writer_that_is_killed_leaves_a_valid_layout(service_folder):
    path = service_folder("layout")
    for attempt in range(3):
        command = [sys.executable, "-c", WRITER, str(path), str(attempt * 10_000)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(0.05 + attempt * 0.07)
            process.send_signal(signal.SIGKILL)
        assert_valid(path)
    ONE.write(OciLayout(path), "last")
    assert_valid(path)
    assert {"oci-layout", "index.json", "blobs"} == {found.name for found in path.iterdir()}
