"""A worker that dies where it is told to: `supervise N`.

`FAULT_FOLDER` holds what was done (`effects`, a line each time) and who has died already. `FAULT_DIE_IN`
names a step of the ledger, `claim` or `finish`: at every tenth item the process is killed in front of it,
once an item.
"""

import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

from config.logging import configure_logging
from stagefleet.attempt import Attempt, ItemResult
from stagefleet.runs.redis_ledger import RedisLedger
from stagefleet.settings import load_settings
from stagefleet.storages.storages import Storages
from workers.process import serve
from workers.supervisor import WorkerSupervisor

FOLDER = Path(os.environ["FAULT_FOLDER"])


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_once(index: int) -> None:
    """Die at every tenth item, unless somebody did already."""
    if index % 10 == 3:
        with suppress(FileExistsError):
            (FOLDER / f"died-{index}").touch(exist_ok=False)
            die()


def arm(step: str) -> None:
    """Put a death in front of a step of the ledger."""
    real = getattr(RedisLedger, step)

    def deadly(self, *arguments, **options):
        die_once(arguments[1] if step == "claim" else arguments[0].index)
        return real(self, *arguments, **options)

    setattr(RedisLedger, step, deadly)


def wait(_storages: Storages, attempt: Attempt) -> ItemResult:
    """Wait for `seconds`, deaf to the lease, and leave a line; `poison` kills the process each time."""
    if attempt.item == "poison":
        die()
    time.sleep(attempt.options.get("seconds", 0))
    with (FOLDER / "effects").open("a") as effects:
        effects.write(f"{attempt.item}\n")
    return ItemResult(result={"item": attempt.item})


def run(ready_fd: int, parent_pipe: int) -> int:
    if step := os.environ.get("FAULT_DIE_IN"):
        arm(step)
    return serve(load_settings(), operations={"wait": wait}, ready_fd=ready_fd, parent_pipe=parent_pipe)


def main() -> None:
    settings = load_settings()
    configure_logging(settings.log)
    supervisor = WorkerSupervisor(
        run, processes=int(sys.argv[2]), drain_seconds=settings.worker.drain_seconds
    )
    sys.exit(supervisor.run())


if __name__ == "__main__":
    main()
