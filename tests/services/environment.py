"""How `stagefleet` is called by tests, demo and bench, and the environment of what they start."""

from __future__ import annotations

import json
import os
import sys

from stagefleet.settings import Settings

__all__ = ["clean_environment", "search_path", "setting_variables", "stagefleet_command"]


def stagefleet_command(*arguments: object) -> list[str]:
    """The command of this checkout; no package in the current directory comes before ours."""
    return [sys.executable, "-I", "-c", "from stagefleet.cli import main; main()", *map(str, arguments)]


def clean_environment(**more: str) -> dict[str, str]:
    """This process's environment without its settings of Stagefleet, which are the user's own.

    Args:
        **more: Variables that stand over what is inherited.
    """
    inherited = {
        name: text for name, text in os.environ.items() if not name.upper().startswith("STAGEFLEET_")
    }
    return inherited | more


def setting_variables(settings: Settings, *sections: str) -> dict[str, str]:
    """Sections of settings, as the variables that a process reads them from."""
    document = settings.model_dump(mode="json", include=set(sections))
    return {f"STAGEFLEET_{name.upper()}": json.dumps(section) for name, section in document.items()}


def search_path() -> str:
    """Where programs are looked for: also where daemons are, which is not on every user's PATH."""
    return os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"
