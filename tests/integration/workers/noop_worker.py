"""A worker of the tests' own: real processes, with an operation that waits as long as its run says."""

import sys
import time

from config.logging import configure_logging
from stagefleet.errors import BrokenStageError, RegistryUnavailableError
from stagefleet.manager import Produced, StageManager
from stagefleet.settings import load_settings
from tasks.base import Job
from workers.supervisor import Supervisor

_CHUNK_SECONDS = 0.02


def wait(_manager: StageManager, job: Job) -> Produced:
    """Wait for `seconds`, with the leash checked as between the chunks of a stream; deaf ones do not."""
    if "broken" in job.item:
        raise BrokenStageError(f"{job.item} is broken")
    if "flaky" in job.item:
        raise RegistryUnavailableError(f"{job.item}: answered 503")
    until = time.monotonic() + job.options.get("seconds", 0)
    while time.monotonic() < until:
        time.sleep(_CHUNK_SECONDS)
        if not job.options.get("deaf"):
            job.leash.check()
    return Produced(result={"item": job.item})


def main() -> None:
    """`supervise N`, or what a supervisor starts."""
    settings = load_settings()
    if sys.argv[1] == "supervise":
        configure_logging(settings.log)
        command = [sys.executable, __file__, "serve"]
        supervisor = Supervisor(
            command, processes=int(sys.argv[2]), drain_seconds=settings.worker.drain_seconds
        )
        sys.exit(supervisor.run())
    from workers.app import serve  # noqa: PLC0415 - brings Celery, for which a supervisor has no use

    ready_fd, life_line = int(sys.argv[3]), int(sys.argv[5])
    sys.exit(serve(settings, operations={"wait": wait}, ready_fd=ready_fd, life_line=life_line))


if __name__ == "__main__":
    main()
