"""`stagefleet worker` that looks a second time at once: no registry here has a cache on the way."""

from stagefleet.deletion import mode
from workers.supervisor import main

mode.SECOND_LOOK_SECONDS = 0.0

if __name__ == "__main__":
    main()
