"""The built wheel, installed beside a project that has `config`, `tasks` and `workers` of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.services.images import ImageMaker, push_stages
from tests.services.processes import wait_until
from tests.services.wheels import LIMIT_SECONDS, ROOT, build_wheel, make_environment, run, uv

PROCESSES = ("config", "tasks", "workers")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(ROOT, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another distribution with packages of the same names; ours must neither read nor touch them."""
    path = tmp_path_factory.mktemp("other") / "other-1-py3-none-any.whl"
    files = {f"{name}/__init__.py": f"OWNER = 'other {name}'\n" for name in PROCESSES}
    files["other-1.dist-info/METADATA"] = "Metadata-Version: 2.1\nName: other\nVersion: 1\n"
    files["other-1.dist-info/WHEEL"] = (
        "Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    )
    files["other-1.dist-info/RECORD"] = "".join(
        f"{name},,\n" for name in [*files, "other-1.dist-info/RECORD"]
    )
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return path


@pytest.fixture(params=["ours first", "ours last"])
def environment(request, wheel: Path, other: Path, tmp_path: Path) -> Path:
    """A virtual environment with both, and what ours depends on."""
    pair = [wheel, other] if request.param == "ours first" else [other, wheel]
    return make_environment(tmp_path / "venv", ROOT / "requirements.lock", *pair)


def site_packages(venv: Path) -> Path:
    (found,) = venv.glob("lib/python3*/site-packages")
    return found


@pytest.fixture
def flower(environment: Path, redis_server, tmp_path: Path) -> Iterator[Path]:
    log = tmp_path / "flower.log"
    variables = {"PATH": os.environ["PATH"], "STAGEFLEET_REDIS_URL": redis_server.url}
    command = [str(environment / "bin" / "stagefleet"), "flower", "--port", "0"]
    with log.open("wb") as stderr:
        process = subprocess.Popen(command, env=variables, cwd=tmp_path, stderr=stderr)
    yield log
    process.send_signal(signal.SIGTERM)
    process.wait(LIMIT_SECONDS)


def test_a_wheel_installs_one_package(wheel: Path):
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.partition("/")[0] for name in names}
    assert {"stagefleet"} == {top for top in tops if not top.endswith(".dist-info")}
    bundled = {name.split("/")[2] for name in names if name.startswith("stagefleet/_processes/")}
    assert set(PROCESSES) == bundled


def test_it_works_beside_packages_of_the_same_names_and_leaves_them(
    environment: Path, flower: Path, registry, make_registry, redis_server, tmp_path: Path
):
    """In a project whose own `tasks/` and `config.py` lie in the current directory, too."""
    push_stages(registry, "app", 3)
    target = make_registry()
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "__init__.py").write_text("raise RuntimeError('not ours')\n")
    (tmp_path / "config.py").write_text("raise RuntimeError('not ours')\n")
    stagefleet = environment / "bin" / "stagefleet"
    addresses = [f"{registry.host}/app", f"{target.host}/mirror"]
    variables = {"PATH": os.environ["PATH"], "PYTHONPATH": str(tmp_path), "HOME": str(tmp_path)}

    embedded = run(stagefleet, "copy", *addresses, "--json", env=variables, cwd=tmp_path)
    assert 3 == json.loads(embedded.splitlines()[-1])["succeeded"]

    variables["STAGEFLEET_REDIS_URL"] = redis_server.url
    command = [str(stagefleet), "worker", "--processes", "1"]
    worker = subprocess.Popen(command, env=variables, cwd=tmp_path, stderr=subprocess.DEVNULL)
    try:
        with ImageMaker(target) as images:
            run(stagefleet, "delete", addresses[1], "--all", "--yes", env=variables, cwd=tmp_path)
            assert [] == images.tags("mirror")
        run(stagefleet, "health", env=variables, cwd=tmp_path)
        wait_until(lambda: '"ready"' in flower.read_text(), "Flower listens")
    finally:
        worker.send_signal(signal.SIGTERM)
        worker.wait(LIMIT_SECONDS)

    uv("pip", "uninstall", "--quiet", "--python", environment, "stagefleet")
    packages = site_packages(environment)
    assert not (packages / "stagefleet").exists()
    for name in PROCESSES:
        assert f"OWNER = 'other {name}'\n" == (packages / name / "__init__.py").read_text()
