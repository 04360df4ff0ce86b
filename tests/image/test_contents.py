"""What the image consists of."""

from __future__ import annotations

import json
from importlib.metadata import version

import pytest

LARGEST_MB = 110
"""Over the base: what is in /app, and 20 of them to grow."""


@pytest.fixture
def inspect(docker):
    return lambda name: json.loads(docker.answer("inspect", name))[0]


@pytest.fixture
def shell(docker, image):
    """Runs a line of shell in the image, as root where it must see all; returns what it printed."""
    return lambda line: docker.answer("run", "--network", "none", "--user", "0", image, "sh", "-c", line)


def test_the_image_says_what_it_is(inspect, image):
    labels = inspect(image)["Config"]["Labels"]
    expected = {"title": "stagefleet", "version": version("stagefleet"), "revision": "0123abc"}
    found = {key: labels[f"org.opencontainers.image.{key}"] for key in expected}
    assert expected == found


def test_the_image_is_its_base_and_little_more(inspect, image, base):
    whole, below = inspect(image), inspect(base)
    added = (whole["Size"] - below["Size"]) / 1e6
    assert added < LARGEST_MB
    assert len(below["RootFS"]["Layers"]) + 4 >= len(whole["RootFS"]["Layers"])


def test_nothing_of_the_build_is_left(shell):
    assert "" == shell("ls -d /uv /source /root/.cache /tmp/* /app/bin/pip* /app/bin/uv* 2>/dev/null; true")
    assert "" == shell("command -v uv gcc cc make; true")


def test_the_user_owns_its_home_and_nothing_else(shell, docker, image):
    assert "/home/stagefleet" == shell("find / -xdev -user 10001 -type d 2>/dev/null")
    assert "" == shell("find /app /usr/local/bin -not -type l -perm /022")
    assert "10001:10001" == docker.answer("run", image, "sh", "-c", 'echo "$(id -u):$(id -g)"')
    done = docker("run", image, "touch", "/app/x")
    assert 1 == done.returncode
    assert "Permission denied" in done.stderr


def test_no_module_is_compiled_at_each_start(shell):
    modules, compiled = (
        int(shell(f"find /app/lib/python3*/site-packages/stagefleet -name '*.{ending}' | wc -l"))
        for ending in ("py", "pyc")
    )
    assert modules == compiled > 100


def test_the_image_can_send_traces(shell):
    code = "import opentelemetry.exporter.otlp.proto.http.trace_exporter, opentelemetry.sdk.trace"
    assert "" == shell(f"/app/bin/python -I -c '{code}'")


def test_no_secret_of_the_build_is_in_the_image(docker, image):
    history = docker.answer("history", "--no-trunc", "--format", "{{.CreatedBy}}", image)
    assert "INDEX_URL" not in history
