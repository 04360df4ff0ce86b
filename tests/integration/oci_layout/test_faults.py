"""Layouts on full disks, of many tags, and of several processes at once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from stagefleet.errors import UsageError
from tests.services import clean_environment, stage_id_of, stagefleet_command

REPOSITORY = "team/app"


@pytest.fixture
def small_disk(tmp_path):
    """A file system of one MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder]
    if os.geteuid() or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("no right to mount a file system")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_keeps_what_is_there(layouts, maker, small_disk):
    path = small_disk / "layout"
    small = maker.push_image(REPOSITORY, stage_id_of("small"), oci=True, layers=[b"small"])
    large = maker.push_image(REPOSITORY, stage_id_of("large"), oci=True, layers=[os.urandom(2_000_000)])
    source = f"{small.host}/{REPOSITORY}"
    layouts.copy(source, path, small.tag)
    for _ in range(2):
        with pytest.raises(UsageError, match="no space left on device: free some space, and run it again"):
            layouts.copy(source, path, large.tag)
    assert [small.tag] == layouts.tags(path)
    assert small.digest == layouts.read_whole(path, small.tag)
    assert {"blobs", "index.json", "oci-layout"} == {found.name for found in path.iterdir()}


LISTING = """
import re, sys
from pathlib import Path
from stagefleet.cli import run_command
code = run_command(["list", sys.argv[1]])
peak = re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]
print(peak, file=sys.stderr)
sys.exit(code)
"""


def list_peak(path, tmp_path):
    """List a layout by the command; returns its output and its peak of memory in MB."""
    command = [sys.executable, "-c", LISTING, f"oci:{path}"]
    done = subprocess.run(
        command, env=clean_environment(HOME=str(tmp_path)), capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines(), int(done.stderr) / 1000


def write_index(path, count):
    (path / "blobs").mkdir(parents=True)
    (path / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    entry = {"mediaType": "application/vnd.oci.image.manifest.v1+json", "size": 1000}
    with (path / "index.json").open("w") as file:
        file.write('{"schemaVersion":2,"manifests":[')
        for number in range(count):
            name = {"org.opencontainers.image.ref.name": f"{number:056x}-1700000000000"}
            document = {**entry, "digest": f"sha256:{number:064x}", "annotations": name}
            file.write(("," if number else "") + json.dumps(document))
        file.write("]}")


def test_a_layout_of_many_tags_is_listed_in_little_memory(tmp_path):
    """Its index.json has 28 MB: 8 MB more than for one of ten tags."""
    write_index(tmp_path / "large", 100_000)
    write_index(tmp_path / "small", 10)
    few, small_peak = list_peak(tmp_path / "small", tmp_path)
    many, large_peak = list_peak(tmp_path / "large", tmp_path)
    assert (10, 100_000) == (len(few), len(set(many)))
    assert large_peak - small_peak < 20


def test_processes_that_write_and_delete_at_once_leave_whole_stages(layouts, maker, tmp_path):
    path = tmp_path / "layout"
    tags = [stage_id_of(f"{n}", 1_700_000_000_000 + n) for n in range(24)]
    pushed = {
        tag: maker.push_image(REPOSITORY, tag, oci=True, layers=[b"shared", tag.encode()]).digest
        for tag in tags
    }
    source = f"{maker.host}/{REPOSITORY}"
    for tag in tags[:8]:
        layouts.copy(source, path, tag)

    def run(*arguments):
        environment = clean_environment(
            HOME=str(tmp_path), DOCKER_CONFIG=str(tmp_path), STAGEFLEET_WORKER__PROCESSES="2"
        )
        done = subprocess.run(
            stagefleet_command(*arguments), env=environment, capture_output=True, text=True, check=False
        )
        assert 0 == done.returncode, done.stderr

    with ThreadPoolExecutor(3) as pool:
        works = (
            ("copy", source, f"oci:{path}", *tags[8:16]),
            ("copy", source, f"oci:{path}", *tags[12:]),
            ("delete", f"oci:{path}", *tags[:8]),
        )
        list(pool.map(lambda work: run(*work), works))
    assert sorted(tags[8:]) == layouts.tags(path)
    for tag in tags[8:]:
        assert pushed[tag] == layouts.read_whole(path, tag)
    blobs = {f"sha256:{blob.name}" for blob in path.glob("blobs/sha256/*")}
    assert 3 * 16 + 1 == len(blobs)  # manifest, configuration and a layer of each, and the shared one
