"""The image as GitHub's runner starts the container of a job.

It replaces the entrypoint by `tail -f /dev/null`; each step is a file that `sh -e` reads, with a folder of
the runner's as HOME (actions/runner: ContainerOperationProvider.cs, DockerCommandManager.cs, StepHost.cs).
"""

from __future__ import annotations

import json
import os

import pytest

from tests.image.containers import NETWORK
from tests.image.pipelines import for_tests, pipelines


@pytest.fixture
def work(make_folder):
    """The runner's folder of work, open to its own user alone."""
    folder = make_folder("work")
    for name in ("app", "_temp", "_temp/_github_home"):
        (folder / name).mkdir()
    return folder


@pytest.fixture
def run_steps(docker, image, fleet, mirror, work):
    """Runs the steps of docs/ci.md as GitHub would, up to the first that fails; returns that or the last."""
    job = pipelines()["jobs"]["mirror"]
    user = job["container"]["options"].split()
    for path in (work, *work.rglob("*")):
        path.chmod(0o755)
        os.chown(path, int(user[-1]), int(user[-1]))
    variables = job["env"] | {
        "STAGEFLEET_REDIS_URL": fleet,
        "REGISTRY_LOGINS": mirror.logins,
        "GITHUB_RUN_ID": "7",
        "HOME": "/github/home",
    }
    options = ["--name", "job", "--label", "0123ab", "--workdir", "/__w/app", *NETWORK, *user]
    options += ["-e", "HOME=/github/home", "-e", "GITHUB_ACTIONS=true", "-e", "CI=true"]
    options += ["-v", f"{work}:/__w", "-v", f"{work}/_temp/_github_home:/github/home"]
    docker.answer("create", *options, "--entrypoint", "tail", image, "-f", "/dev/null")
    docker.answer("start", "job")
    assert "job" in docker.answer("ps", "--filter", "status=running", "--format", "{{.Names}}").split()
    given = [part for name, value in variables.items() for part in ("-e", f"{name}={value}")]

    def run():
        for number, step in enumerate(step for step in job["steps"] if "run" in step):
            script = work / "_temp" / f"{number}.sh"
            script.write_text(for_tests(step["run"], mirror))
            command = ["sh", "-e", f"/__w/_temp/{number}.sh"]
            done = docker("exec", "-i", "--workdir", "/__w/app", *given, "job", *command)
            if done.returncode != 0:
                break
        return done

    return run


def test_the_steps_of_the_docs_copy(run_steps, mirror, work):
    done = run_steps()
    assert 0 == done.returncode, done.stdout + done.stderr
    assert list(mirror.stages) == mirror.copied()
    summary = json.loads((work / "app" / "outcomes.jsonl").read_text().splitlines()[-1])
    assert ("succeeded", len(mirror.stages)) == (summary["state"], summary["succeeded"])


def test_a_stage_that_is_broken_fails_its_step(run_steps, mirror):
    broken = mirror.break_one()
    done = run_steps()
    assert 1 == done.returncode, done.stdout + done.stderr
    assert sorted({*mirror.stages} - {broken}) == mirror.copied()
