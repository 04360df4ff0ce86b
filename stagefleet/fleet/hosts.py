"""The hosts of a fleet: those whose workers have a Docker Engine."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from stagefleet.errors import HostNotFoundError, UsageError
from stagefleet.redaction import quoted
from stagefleet.runs.messages import host_of_queue
from stagefleet.runs.models import WorkerInfo

__all__ = ["choose_hosts", "live_hosts"]


def live_hosts(workers: Iterable[WorkerInfo]) -> list[str]:
    """Return the hosts with a live worker that has an engine, sorted."""
    return sorted({host for worker in workers for queue in worker.queues if (host := host_of_queue(queue))})


def choose_hosts(
    asked: Sequence[str] | None,
    *,
    everywhere: bool,
    own: str,
    list_hosts: Callable[[], Sequence[str]],
    advice: str,
) -> tuple[str, ...]:
    """Return the hosts for a run.

    Args:
        asked: The names; None or empty for this host.
        everywhere: Choose all live hosts.
        own: The name of this host.
        list_hosts: Returns the live hosts.
        advice: The advice in the error for a missing host.

    Raises:
        UsageError: Both names and `everywhere` are given.
        HostNotFoundError: A host has no live worker; the message lists those that have.
    """
    if isinstance(asked, str):
        raise UsageError("hosts is one string: hand in a list of names")
    if asked and everywhere:
        raise UsageError("name hosts, or ask for all of them, not both")
    live = list_hosts()
    chosen = tuple(dict.fromkeys(live if everywhere else asked or (own,)))
    missing = [host for host in chosen if host not in live]
    if missing or not chosen:
        there = ", ".join(live) or "none"
        choice = "name one of them, or " if live else ""
        lacking = f"no live worker of host {quoted(missing[0])} has a Docker Engine" if missing else ""
        raise HostNotFoundError(
            f"{lacking or 'no host is there'} (hosts that are there: {there}): {choice}{advice}"
        )
    return chosen
