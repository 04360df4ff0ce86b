"""A worker of the tests' own: real processes, with an operation that waits as long as its run says."""

import sys
import time

from config.logging import configure_logging
from stagefleet.attempt import Attempt, ItemResult
from stagefleet.errors import BrokenStageError, RegistryUnavailableError
from stagefleet.settings import load_settings
from stagefleet.storages.storages import Storages
from workers.process import serve
from workers.supervisor import WorkerSupervisor

_CHUNK_SECONDS = 0.02


def wait(_storages: Storages, attempt: Attempt) -> ItemResult:
    """Wait for `seconds`, with the lease checked as between the chunks of a stream; deaf ones do not."""
    if "broken" in attempt.item:
        raise BrokenStageError(f"{attempt.item} is broken")
    if "flaky" in attempt.item:
        raise RegistryUnavailableError(f"{attempt.item}: answered 503")
    until = time.monotonic() + attempt.options.get("seconds", 0)
    while time.monotonic() < until:
        time.sleep(_CHUNK_SECONDS)
        if not attempt.options.get("deaf"):
            attempt.lease.check()
    return ItemResult(result={"item": attempt.item})


def run(ready_fd: int, parent_pipe: int) -> int:
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
