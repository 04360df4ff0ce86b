"""The image as the Docker executor of GitLab Runner starts it.

The runner keeps the image's entrypoint, gives it `sh -c` with a line that looks for a shell, and pipes the
job's script into that (gitlab-runner: shells/bash.go). The project's folder is the runner's, and open to all.
"""

from __future__ import annotations

import json
import shlex

import pytest

from tests.image.containers import NETWORK
from tests.image.pipelines import for_tests, pipelines

FIND_SHELL = "if [ -x /usr/bin/bash ]; then exec /usr/bin/bash; else exec /bin/sh; fi"
PRELUDE = "if set -o | grep pipefail > /dev/null; then set -o pipefail; fi; set -o errexit"
AS_IT_IS, NONE = (), ("--entrypoint", "")


@pytest.fixture
def run_job(docker, image, mirror, fleet, make_folder):
    """Runs the job of docs/ci.md as GitLab would; returns what it did and its folder."""
    builds = make_folder("builds")
    (builds / "app").mkdir()
    (builds / "app").chmod(0o777)
    (builds / "logins").write_text(mirror.logins)
    job = pipelines()["mirror-stages"]
    variables = job["variables"] | {
        "STAGEFLEET_REDIS_URL": fleet,
        "REGISTRY_LOGINS": "/builds/logins",
        "CI_PIPELINE_ID": "7",
    }

    def run(entrypoint):
        lines = [f"export {name}={shlex.quote(value)}" for name, value in variables.items()]
        lines.append("cd /builds/app")
        lines += [for_tests(line, mirror) for line in job["before_script"] + job["script"]]
        script = f"{PRELUDE}\n: | eval {shlex.quote(chr(10).join(lines))}\nexit 0\n"
        options = ["--interactive", *NETWORK, "-v", f"{builds}:/builds", *entrypoint]
        return docker("run", *options, image, "sh", "-c", FIND_SHELL, stdin=script), builds / "app"

    return run


@pytest.mark.parametrize("entrypoint", [AS_IT_IS, NONE], ids=["entrypoint", "no-entrypoint"])
def test_the_job_of_the_docs_copies(run_job, mirror, entrypoint):
    done, folder = run_job(entrypoint)
    assert 0 == done.returncode, done.stdout + done.stderr
    assert list(mirror.stages) == mirror.copied()
    summary = json.loads((folder / "outcomes.jsonl").read_text().splitlines()[-1])
    assert ("succeeded", len(mirror.stages)) == (summary["state"], summary["succeeded"])


def test_a_stage_that_is_broken_fails_the_job(run_job, mirror):
    broken = mirror.break_one()
    done, folder = run_job(AS_IT_IS)
    assert 1 == done.returncode, done.stdout + done.stderr
    assert sorted({*mirror.stages} - {broken}) == mirror.copied()
    outcomes = [json.loads(line) for line in (folder / "outcomes.jsonl").read_text().splitlines()[:-1]]
    assert [broken] == [outcome["item"] for outcome in outcomes if outcome["state"] == "failed"]


@pytest.mark.parametrize(("template", "code"), [("eval {}", 1), ("(eval {})", 2)], ids=["old", "new"])
def test_a_command_that_fails_ends_the_script(docker, image, template, code):
    """The second is what FF_USE_NEW_BASH_EVAL_STRATEGY makes."""
    lines = shlex.quote("stagefleet no-such-command\necho went on")
    script = f"{PRELUDE}\n: | {template.format(lines)}\nexit 0\n"
    done = docker("run", "--interactive", *NETWORK, image, "sh", "-c", FIND_SHELL, stdin=script)
    assert (code, "") == (done.returncode, done.stdout)
    assert "No such command 'no-such-command'" in done.stderr
