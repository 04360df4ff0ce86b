"""`stagefleet locks`: list, show, release."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict
from typing import Annotated

import typer

from stagefleet.cli import options as opt
from stagefleet.cli.app import make_group
from stagefleet.cli.output import print_json, print_line
from stagefleet.cli.session import read_settings
from stagefleet.errors import UsageError
from stagefleet.locks import LockHolder, LockInfo, RedisLocks

app = make_group("List locks and their holders, and release the lock of a holder that hangs.")
Name = Annotated[str, typer.Argument(metavar="NAME", help="The lock's name.")]


@app.command("list")
def list_locks(*, json: opt.Json = False) -> None:
    """List the locks that are held or waited for."""
    with _connect() as locks:
        for info in locks.locks():
            if json:
                print_json(asdict(info))
            else:
                waiting = f", {len(info.waiting)} waiting" if info.waiting else ""
                print_line(f"{info.name}  {', '.join(map(_short, info.holders)) or 'nobody'}{waiting}")


@app.command("show")
def show_lock(name: Name, *, json: opt.Json = False) -> None:
    """Show who holds a lock and who waits for it, the next one first."""
    with _connect() as locks:
        info = _find(locks, name)
    if json:
        print_json(asdict(info))
        return
    print_line(info.name)
    for holder in info.holders:
        print_line(f"  held     {_line(holder)}, fence {holder.fence}")
    for waiter in info.waiting:
        print_line(f"  waiting  {_line(waiter)}")


@app.command("release")
def release_lock(
    name: Name,
    holder: Annotated[
        str | None,
        typer.Argument(metavar="HOLDER", help="One ticket, as `show` prints it; every holder by default."),
    ] = None,
    *,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Take a lock from its holders; they stop within seconds, and what they do is tried again."""
    with _connect() as locks:
        info = _find(locks, name)
        held = [each for each in info.holders if holder in {None, each.ticket}]
        if not held:
            tickets = ", ".join(each.ticket for each in info.holders) or "nobody"
            raise UsageError(f"lock {name} is not held by {holder or 'anybody'} (held by: {tickets})")
        if not yes:
            _confirm(name, held)
        count = locks.force_release(name, holder)
    print_line(f"released {name}: {count} {'hold' if count == 1 else 'holds'}")


@contextmanager
def _connect() -> Iterator[RedisLocks]:
    settings = read_settings()
    if settings.redis_url is None:
        raise UsageError("stagefleet locks needs a fleet: set STAGEFLEET_REDIS_URL")
    with closing(RedisLocks.connect(settings.redis_url, settings)) as locks:
        yield locks


def _find(locks: RedisLocks, name: str) -> LockInfo:
    for info in locks.locks():
        if info.name == name:
            return info
    raise UsageError(
        f"lock {name} is neither held nor waited for; `stagefleet locks list` shows all that are"
    )


def _confirm(name: str, held: list[LockHolder]) -> None:
    holders = ", ".join(map(_short, held))
    opt.require_terminal("release", f"take {name} from {holders}")
    opt.confirm(f"Take {name} from {holders}?", "nothing was released")


def _short(holder: LockHolder) -> str:
    return f"{holder.label} (shared)" if holder.shared else holder.label


def _line(holder: LockHolder) -> str:
    return f"{holder.ticket}  {_short(holder)}, lease ends in {holder.seconds_left:.0f} s unless renewed"
