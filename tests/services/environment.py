"""The environment of what tests, demo and bench start."""

from __future__ import annotations

import os

__all__ = ["clean_environment", "search_path"]


def clean_environment(**more: str) -> dict[str, str]:
    """This process's environment without its settings of Stagefleet, which are the user's own.

    Args:
        **more: Variables that stand over what is inherited.
    """
    inherited = {
        name: text for name, text in os.environ.items() if not name.upper().startswith("STAGEFLEET_")
    }
    return inherited | more


def search_path() -> str:
    """Where programs are looked for: also where daemons are, which is not on every user's PATH."""
    return os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"
