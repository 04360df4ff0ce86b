"""Other tools that know OCI image layouts, and copies between a layout and a registry."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from stagefleet.attempt import Attempt
from stagefleet.credentials import DockerConfig
from stagefleet.names import LayoutPath, Repository, StageId
from stagefleet.registry.client import RegistryClient
from stagefleet.settings import Settings
from stagefleet.storages.transfer import transfer
from tests.services import ImageMaker
from tests.services.processes import find_program
from tests.stage_tasks import make_storages


@pytest.fixture
def run(tmp_path):
    """Runs a tool with nothing of the user's, and returns what it printed."""
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "TMPDIR": str(tmp_path)}

    def run(program, *arguments):
        done = subprocess.run(
            [program, *map(str, arguments)], env=environment, capture_output=True, text=True, check=False
        )
        assert 0 == done.returncode, done.stderr
        return done.stdout

    return run


@pytest.fixture
def skopeo(run):
    program = find_program("skopeo", install="apt-get install skopeo")

    def skopeo(command, *arguments):
        options = (
            ("--preserve-digests", "--src-tls-verify=false", "--dest-tls-verify=false")
            if command == "copy"
            else ()
        )
        return run(program, "--insecure-policy", command, *options, *arguments)

    return skopeo


def program_or_skip(name, run):
    """A tool that no distribution packages: its tests run where somebody has it."""
    program = shutil.which(name)
    if program is None:
        pytest.skip(f"{name} is not installed")
    return lambda *arguments: run(program, *arguments)


@pytest.fixture
def crane(run):
    return program_or_skip("crane", run)


@pytest.fixture
def regctl(run):
    return program_or_skip("regctl", run)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "layout"


@pytest.fixture
def maker(registry):
    with ImageMaker(registry) as maker:
        yield maker


class Layouts:
    """Copies between a registry and layouts, without a worker."""

    def __init__(self, client):
        self._storages = make_storages(client)

    def copy(self, source, destination, tag):
        """Copy one stage; each of the two is a path, or the address of a repository."""
        return transfer(
            self._storages, address_of(source), address_of(destination), StageId.parse(tag), Attempt("r", tag)
        )

    def delete(self, path, tag):
        self.open(path).delete(StageId.parse(tag), Attempt("r", tag))

    def tags(self, path):
        return sorted(map(str, self.open(path).stage_ids()))

    def read_whole(self, path, tag):
        """Read all that a stage leads to, verified; returns its digest."""
        storage = self.open(path)
        manifests = [storage.fetch_manifest(StageId.parse(tag))]
        for manifest in manifests:
            manifests += [storage.fetch_member(member.digest) for member in manifest.members]
            for blob in filter(None, (manifest.config, *manifest.layers)):
                with storage.open_blob(blob) as content:
                    assert blob.size == sum(map(len, iter(content.read, b"")))
        return str(manifests[0].digest)

    def open(self, path):
        return self._storages.open(LayoutPath.parse(str(path)))


def address_of(place):
    return LayoutPath.parse(str(place)) if isinstance(place, Path) else Repository.parse(place)


@pytest.fixture
def layouts(client):
    return Layouts(client)


@pytest.fixture
def client(tmp_path):
    with RegistryClient(Settings(), config=DockerConfig(tmp_path / "config.json")) as client:
        yield client
