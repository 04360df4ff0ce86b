"""How a worker is started from here, without importing it."""

from __future__ import annotations

import sys
from pathlib import Path

__all__ = ["isolated_command", "worker_command"]


def worker_command(*options: str) -> list[str]:
    """The command of a worker's supervisor.

    Args:
        *options: As `stagefleet worker` takes them.
    """
    return isolated_command("workers.supervisor", *options)


def isolated_command(module: str, *options: str) -> list[str]:
    """The command that calls `main()` of one of our modules in an interpreter of its own.

    Not `-m workers...`, and isolated: a `workers/`, `tasks/` or `config/` of the user's own, in the current
    directory or on PYTHONPATH, must not come before ours. As isolation leaves out the user's own
    site-packages too, the place of our packages is added behind all others.

    Args:
        module: The module's name.
        *options: What `main` reads from `sys.argv`.
    """
    home = str(Path(__file__).resolve().parent.parent)
    code = f"import sys; sys.path.append({home!r}); from {module} import main; main()"
    return [sys.executable, "-I", "-c", code, *options]
