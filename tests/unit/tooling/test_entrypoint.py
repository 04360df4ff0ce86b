"""The image's entrypoint, in every shell that is here, as people and CI systems pass arguments to it."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ENTRYPOINT = Path(__file__).parents[3] / "deploy" / "entrypoint.sh"
SHELLS = {"dash": ["dash"], "bash": ["bash"], "busybox": ["busybox", "sh"]}
FIND_SHELL = "if [ -x /bin/bash ]; then exec /bin/bash; else exec /bin/sh; fi"


@pytest.fixture(params=sorted(SHELLS))
def enter(request, tmp_path):
    """Starts the entrypoint beside a `stagefleet` that prints its arguments, one a line, in brackets."""
    shell = SHELLS[request.param]
    if shutil.which(shell[0]) is None:
        pytest.skip(f"{shell[0]} is not installed")
    command = tmp_path / "stagefleet"
    command.write_text('#!/bin/sh\necho stagefleet\nfor word in "$@"; do echo "[$word]"; done\nexit 7\n')
    command.chmod(0o755)

    def enter(*arguments, stdin=""):
        return subprocess.run(
            [*shell, str(ENTRYPOINT), *arguments],
            env={"PATH": f"{tmp_path}:{os.environ['PATH']}"},
            cwd=tmp_path,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )

    return enter


@pytest.mark.parametrize("arguments", [
    [],
    ["worker"],
    ["worker", "--queues", "copy,delete"],
    ["list", "registry.example.com/app"],
    ["--version"],
    ["-q", "list", "registry.example.com/app"],
    ["no-such-command"],
    ["copy", "a b", "", "*", "$HOME", "--from-file", "-"],
    ["wait"],
    ["exit"],
    ["if"],
    ["/etc"],
], ids=str)  # fmt: skip
def test_what_is_no_program_is_for_the_command(enter, arguments):
    done = enter(*arguments)
    expected = ["stagefleet", *(f"[{word}]" for word in arguments)]
    assert (7, expected, "") == (done.returncode, done.stdout.splitlines(), done.stderr)


def test_the_command_may_be_named(enter):
    done = enter("stagefleet", "list", "x")
    assert (7, ["stagefleet", "[list]", "[x]"]) == (done.returncode, done.stdout.splitlines())


@pytest.mark.parametrize(("arguments", "stdin", "expected"), [
    (["sh", "-c", FIND_SHELL], "echo $((6 * 7))\nexit 5\n", (5, "42\n")),
    (["/bin/sh"], "exit 5\n", (5, "")),
    (["cat"], "what comes in\n", (0, "what comes in\n")),
    (["tail", "-n", "1", "/dev/null"], "", (0, "")),
    (["env", "A=b c", "sh", "-c", 'echo "$A"'], "", (0, "b c\n")),
    (["echo", "a  b"], "", (0, "a  b\n")),
    (["true"], "", (0, "")),
    (["test", "-e", "/no/such/file"], "", (1, "")),
], ids=str)  # fmt: skip
def test_a_program_runs_as_it_is(enter, arguments, stdin, expected):
    """GitLab pipes a script into a shell that it looks for, Jenkins starts `cat`, others what they like."""
    done = enter(*arguments, stdin=stdin)
    assert (*expected, "") == (done.returncode, done.stdout, done.stderr)


def test_what_lies_in_the_current_folder_is_no_program(enter, tmp_path):
    (tmp_path / "job").mkdir()
    (tmp_path / "job" / "list").write_text("#!/bin/sh\necho wrong\n")
    (tmp_path / "job" / "list").chmod(0o755)
    done = enter("sh", "-c", f'cd job && exec "{ENTRYPOINT}" list x')
    assert ["stagefleet", "[list]", "[x]"] == done.stdout.splitlines()
