"""The base of the image: the Dockerfile's own, or one of Debian's packages where that cannot be had."""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.services.docker_command import DockerCommand
from tests.services.environment import search_path
from tests.services.processes import find_program

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "deploy" / "Dockerfile"
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
SUITE = "trixie"
"""The release of Debian that the Dockerfile's base is made of; its Python is the same version."""
PACKAGES = ("python3", "python3-venv", "python-is-python3", "ca-certificates", "netbase", "tzdata")
_BUILD_SECONDS = 900


@dataclass(frozen=True)
class Base:
    """What the image is built on.

    Attributes:
        name: The base image's name.
        words: What it is, for the summary of the test run.
    """

    name: str
    words: str


def find_base(docker: DockerCommand) -> Base:
    """Pull the base that the Dockerfile names, or make one like it."""
    named = re.search(r"^ARG PYTHON=(\S+)$", DOCKERFILE.read_text(), re.MULTILINE)
    assert named is not None
    pulled = docker("pull", "--quiet", named[1], seconds=300)
    if pulled.returncode == 0:
        return Base(named[1], named[1])
    made = "stagefleet-base:debian"
    docker.answer("import", _debian_archive(), made, seconds=300)
    reason = pulled.stderr.strip().splitlines()[-1]
    return Base(made, f"Debian {SUITE} with its own python3, as {named[1]} cannot be had ({reason})")


def _debian_archive() -> Path:
    """Make an archive of Debian's smallest system with Python and this machine's certificates, once."""
    archive = ROOT / ".tools" / f"base-{SUITE}.tar"
    if archive.is_file():
        return archive
    archive.parent.mkdir(exist_ok=True)
    unfinished = archive.with_suffix(f".{os.getpid()}.tar")
    options = ["--variant=minbase", f"--include={','.join(PACKAGES)}"]
    if CERTIFICATES.is_file():  # a network may sign with a certificate of its own
        options.append(f"--customize-hook=copy-in {CERTIFICATES} {CERTIFICATES.parent}")
    subprocess.run(
        [find_program("mmdebstrap", install="run scripts/setup.sh image"), *options, SUITE, str(unfinished)],
        env={"PATH": search_path(), "LC_ALL": "C.UTF-8"},
        check=True,
        timeout=_BUILD_SECONDS,
    )
    unfinished.rename(archive)
    return archive
