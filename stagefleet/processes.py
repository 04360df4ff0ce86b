"""Start the fleet's processes: workers, Flower and the health check, each in an interpreter of its own.

Their packages are `workers`, `tasks` and `config`, names that a user's own project may have, too. A wheel
carries them in `stagefleet/_processes`, which holds nothing else, so that nothing of the user's is
overwritten or shadowed; in a checkout they lie beside `stagefleet/`.
"""

from __future__ import annotations

import re
import sys
from importlib.util import find_spec
from pathlib import Path

from stagefleet.errors import SettingsError

_LIBRARY = Path(__file__).resolve().parent


def worker_command(*options: str) -> list[str]:
    """Make the command of a worker's supervisor, with options of `stagefleet worker`."""
    return isolated_command("workers.supervisor", *options)


def isolated_command(module: str, *options: str) -> list[str]:
    """Make the command that calls `main()` of a process's module; `SettingsError` as of `packages_directory`.

    The interpreter is isolated (`-I`): neither the current directory nor PYTHONPATH nor the user's own
    site-packages come before our packages. The library's directory is added behind all others, as isolation
    leaves it out where it lies in the user's site-packages.
    """
    paths = f"sys.path.insert(0, {str(packages_directory())!r}); sys.path.append({str(_LIBRARY.parent)!r})"
    code = f"import sys; {paths}; from {module} import main; main()"
    return [sys.executable, "-I", "-c", code, *options]


def packages_directory(library: Path = _LIBRARY) -> Path:
    """Find the directory that holds `workers`, `tasks` and `config`.

    `SettingsError` if it is neither in the package, as in a wheel, nor beside it, as in a checkout.
    """
    bundled = library / "_processes"
    if bundled.is_dir():
        return bundled
    project = library.parent / "pyproject.toml"
    if project.is_file() and re.search(r'(?m)^name = "stagefleet"$', project.read_text(errors="replace")):
        return library.parent
    raise SettingsError(f"{library} lacks _processes, the packages of its workers: install stagefleet again")


def require_extra(extra: str, module: str, purpose: str) -> None:
    """Refuse what needs a package that an extra of ours installs, and say how to install it.

    `purpose` is the subject of a sentence in the plural.
    """
    if find_spec(module) is None:
        raise SettingsError(f"{purpose} need {module}: run  pip install 'stagefleet[{extra}]'")
