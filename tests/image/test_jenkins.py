"""The image as the Docker Pipeline plug-in of Jenkins starts it.

It runs `cat` on a terminal as the agent's user, checks by `docker top` that this is what runs, and executes
each step in the container (docker-workflow-plugin: DockerClient.java, WithContainerStep.java).
"""

from __future__ import annotations

import json
import re

import pytest

from tests.image.containers import NETWORK, START_SECONDS
from tests.image.pipelines import examples, for_tests
from tests.services.processes import wait_until

USER = "1234:1234"
"""The agent's user, who is not known in the image."""


@pytest.fixture
def workspace_folder(make_folder):
    return make_folder("workspace")


@pytest.fixture
def temporary_folder(make_folder):
    return make_folder("workspace-tmp")


@pytest.fixture
def container(docker, image, fleet, workspace_folder, temporary_folder):
    """The container of a build."""
    options = ["-t", "-d", "-u", USER, *NETWORK, "-w", str(workspace_folder)]
    for path in (workspace_folder, temporary_folder):
        options += ["-v", f"{path}:{path}:rw,z"]
    variables = {
        "BUILD_TAG": "jenkins-mirror-7",
        "STAGEFLEET_REDIS_URL": fleet,
        "DOCKER_CONFIG": f"{temporary_folder}/docker",
    }
    options += [part for name, value in variables.items() for part in ("-e", f"{name}={value}")]
    return docker.answer("run", *options, image, "cat")


@pytest.fixture
def run_step(docker, container, workspace_folder, temporary_folder):
    """Runs the step of docs/ci.md as Jenkins would."""
    logins = temporary_folder / "logins.json"
    script = temporary_folder / "script.sh"
    (example,) = examples("groovy")
    (step,) = re.findall(r"sh '''\n(.*?)'''", example, re.DOTALL)
    step = step.replace("\\\n", "")  # as Groovy reads it

    def run(mirror, *options):
        logins.write_text(mirror.logins)
        script.write_text(for_tests(step, mirror))
        script.chmod(0o755)
        variables = ["env", f"REGISTRY_LOGINS={logins}"]
        return docker("exec", *options, container, *variables, "sh", "-xe", script)

    return run


def test_cat_runs_alone(docker, container):
    lines = docker.answer("top", container, "-eo", "pid,comm").splitlines()
    assert ["cat"] == [line.split()[1] for line in lines[1:]]


def test_the_step_of_the_docs_copies(docker, container, run_step, mirror, workspace_folder):
    done = run_step(mirror)
    assert 0 == done.returncode, done.stdout + done.stderr
    assert list(mirror.stages) == mirror.copied()
    summary = json.loads((workspace_folder / "outcomes.jsonl").read_text().splitlines()[-1])
    assert ("succeeded", len(mirror.stages)) == (summary["state"], summary["succeeded"])
    docker.answer("stop", "--time=1", container)
    docker.answer("rm", "-f", "--volumes", container)


def test_a_stage_that_is_broken_fails_the_step(run_step, mirror):
    broken = mirror.break_one()
    done = run_step(mirror)
    assert 1 == done.returncode, done.stdout + done.stderr
    assert sorted({*mirror.stages} - {broken}) == mirror.copied()


def test_a_build_that_is_aborted_leaves_its_run_to_the_fleet(docker, container, run_step, mirror):
    """Jenkins finds no `ps` to name what it would end, and takes the container away."""
    assert "" == docker("exec", container, "sh", "-c", "command -v ps").stdout
    with mirror.with_gate() as (gated, gate):
        assert 0 == run_step(gated, "--detach").returncode
        assert gate.reached.wait(START_SECONDS)
        docker.answer("stop", "--time=1", container)
        docker.answer("rm", "-f", "--volumes", container)
        gate.open.set()
        stages = list(mirror.stages)
        wait_until(lambda: stages == mirror.copied(), "the fleet copies the rest", seconds=START_SECONDS)
