"""Command lines that start a worker, without an import of the worker's code."""

from __future__ import annotations

import sys
from pathlib import Path

__all__ = ["isolated_command", "worker_command"]


def worker_command(*options: str) -> list[str]:
    """Build the command of a worker's supervisor.

    Args:
        *options: Options of `stagefleet worker`.
    """
    return isolated_command("workers.supervisor", *options)


def isolated_command(module: str, *options: str) -> list[str]:
    """Build the command that calls `main()` of one of our modules in a new, isolated interpreter.

    Not `-m workers...`: a `workers/`, `tasks/` or `config/` of the user's own, in the current directory or on
    PYTHONPATH, must not come before ours. Isolation also drops the user's site-packages, so the directory
    of our packages is appended to the path.

    Args:
        module: The module's name.
        *options: The arguments that `main` reads from `sys.argv`.
    """
    home = str(Path(__file__).resolve().parent.parent)
    code = f"import sys; sys.path.append({home!r}); from {module} import main; main()"
    return [sys.executable, "-I", "-c", code, *options]
