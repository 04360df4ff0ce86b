"""Wheels built and installed as users install them, by the uv that `scripts/setup.sh` brings."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

from tests.services.processes import ServiceMissingError

__all__ = ["LIMIT_SECONDS", "ROOT", "build_wheel", "make_environment", "run", "uv"]

ROOT = Path(__file__).parents[2]
LIMIT_SECONDS = 120
_UV = ROOT / ".tools" / "bin" / "uv"


def run(*command: str | Path, env: Mapping[str, str], cwd: Path = ROOT) -> str:
    """Run a command to its end, and return its output, which is part of the failure if there is one."""
    done = subprocess.run(
        [str(word) for word in command],
        env=env,
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=LIMIT_SECONDS,
        check=False,
    )
    assert 0 == done.returncode, done.stdout + done.stderr
    return done.stdout


def uv(*arguments: str | Path) -> None:
    """Run uv with the checkout's own cache.

    Raises:
        ServiceMissingError: The checkout has no uv.
    """
    if not _UV.exists():
        raise ServiceMissingError("uv is missing: run scripts/setup.sh")
    environment = {"UV_CACHE_DIR": str(ROOT / ".tools" / "cache"), "UV_SYSTEM_CERTS": "1"} | os.environ
    run(_UV, *arguments, env=environment)


def build_wheel(source: Path, folder: Path) -> Path:
    """Build the wheel of a source tree into a folder that has no other, and return its path."""
    uv("build", "--quiet", "--wheel", "--out-dir", folder, source)
    (found,) = folder.glob("stagefleet-*.whl")
    return found


def make_environment(venv: Path, requirements: Path, *wheels: Path) -> Path:
    """Create a virtual environment with locked requirements and, in this order, wheels without theirs."""
    uv("venv", "--quiet", venv)
    uv("pip", "install", "--quiet", "--python", venv, "--requirements", requirements)
    for wheel in wheels:
        uv("pip", "install", "--quiet", "--python", venv, "--no-deps", wheel)
    return venv
