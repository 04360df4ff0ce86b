"""What the demo shows, in the order in which it shows it."""

from __future__ import annotations

import json
import re
from contextlib import ExitStack
from pathlib import Path

from scripts.demo.corpus import CUSTOM_TAG, STAGES, Corpus, differences
from scripts.demo.fleet import LEASE_SECONDS, MACHINES, DemoFleet
from scripts.demo.shell import Shell, claim, ensure, tell, uninterrupted
from stagefleet import Fleet
from tests.services import ImageMaker, Program, RegistryServer
from tests.services.processes import wait_until

__all__ = ["Story"]

_SOURCE, _MIRROR, _FINAL, _CACHE = "app/stages", "mirror/stages", "app/final", "app/cache"
_CALLED = f"{_FINAL}/called"
_DELETED = 3
_JOB = 4
_WINDOW = 4
_CALLED_BACK = 24
_PROGRAM = f"""\
import sys, time
from itertools import islice
from stagefleet import Fleet

told, open_stages = [], []
def on_outcome(outcome):
    time.sleep(0.05)
    run = next(fleet.runs())
    open_stages.append(run.claimed + run.published + run.done - len(told))
    told.append(outcome.item)

with Fleet.connect() as fleet:
    stage_ids = list(islice(fleet.stage_ids(sys.argv[1]), {_CALLED_BACK}))
    fleet.for_each_copy_stage(*sys.argv[1:], stage_ids, on_outcome, parallel={_WINDOW})
print(len(told), "called back for,", max(open_stages), "at most under way or not called back for")
"""
"""A client whose callback takes its time, and counts what the run has open meanwhile."""


class Story:
    """The services of the demo, and its chapters.

    Args:
        folder: For all files.
        stack: Ends everything that a chapter started.
    """

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._folder, self._stack = folder, stack
        self._shell = Shell(folder / "home", stack)
        self._corpus = Corpus(_SOURCE)

    def tell(self) -> None:
        """Tell all of it.

        Raises:
            ClaimError: Something is not as it should be.
        """
        self._build()
        self._copy_alone()
        self._delete()
        self._start_fleet()
        self._publish()
        self._call_back()
        self._fetch()

    def explain_use(self) -> None:
        """Say how to go on by hand, while everything is up."""
        tell("")
        tell("KEEP: everything stays up. In another terminal, in this checkout:")
        shown = ("SRC", "DST", "FINAL", "CACHE", "STAGEFLEET_CONFIG", "STAGEFLEET_REDIS_URL")
        tell(f"  export {' '.join(f'{name}={self._shell.environment[name]}' for name in shown)}")
        tell("  .venv/bin/stagefleet runs list     # or: doctor $SRC $FINAL, fetch $SRC STAGE_ID --all-hosts")
        for engine in self._fleet.engines.values():
            tell(f"  docker -H {engine.url} images")
        tell(f"  Flower: {self._fleet.flower_url}")

    def _build(self) -> None:
        self._registries = {name: self._start_registry(name) for name in ("source", "mirror", "cache")}
        makers = [self._stack.enter_context(ImageMaker(registry)) for registry in self._registries.values()]
        self._source, self._mirror, self._cache = makers
        self._corpus.push(self._source)
        tell(
            f"A registry with {len(self._corpus.digests)} stages: images, each one step of a build. "
            f"One is for two platforms, one has a tag of its own as well, {CUSTOM_TAG}."
        )

    def _start_registry(self, name: str) -> RegistryServer:
        registry = RegistryServer(self._folder / name)
        self._stack.callback(registry.stop)
        with uninterrupted():
            return registry.start()

    def _copy_alone(self) -> None:
        tell("\n# Another registry mirrors it: one command, and nothing else is set up.")
        self._shell.export(SRC=f"{self._source.host}/{_SOURCE}", DST=f"{self._mirror.host}/{_MIRROR}")
        self._shell.run("stagefleet copy $SRC $DST")
        claim(
            "every stage is there, with the digest and all the bytes of the source",
            *differences(self._mirror, _MIRROR, self._corpus.digests),
        )
        self._shell.run("stagefleet copy $SRC $DST 2>/dev/null   # again")

    def _delete(self) -> None:
        tell(
            f"\n# The first {_DELETED} stages go from the source; {CUSTOM_TAG} is another tag of one of them."
        )
        self._shell.run(
            f"stagefleet list $SRC | head -{_DELETED} | stagefleet delete $SRC --from-file - 2>/dev/null"
        )
        self._corpus.forget(sorted(self._corpus.digests)[:_DELETED])
        custom = {CUSTOM_TAG: self._corpus.tagged_digest}
        problems = differences(self._source, _SOURCE, self._corpus.digests | custom)
        claim(f"those are gone and nothing else; {CUSTOM_TAG} still has its digest and content", *problems)

    def _start_fleet(self) -> None:
        self._fleet = DemoFleet(self._shell, self._stack)
        self._fleet.start_engines()
        machines = "machines, a worker and a Docker Engine on each" if self._fleet.engines else "workers"
        tell(
            f"\n# A fleet: {len(MACHINES)} {machines}; Flower watches. "
            f"What a lost worker held goes to others after {LEASE_SECONDS} s, not 30."
        )
        self._shell.export(
            STAGEFLEET_REDIS_URL=self._fleet.redis_url,
            FINAL=f"{self._mirror.host}/{_FINAL}",
            CACHE=f"{self._cache.host}/{_CACHE}",
        )
        self._fleet.start_workers()
        # It listens before it hears the workers, and would not know one that is killed before that.
        ensure("Flower shows the workers", *self._fleet.await_flower())

    def _publish(self) -> None:
        tell(
            "\n# The fleet publishes to a final repository, to deploy from; a worker is killed in the middle."
        )
        publish = "stagefleet publish --primary $SRC --final $FINAL"
        command = self._shell.start(f"{publish} --json 2>/dev/null > outcomes.jsonl")
        self._await_middle(command)
        killed = self._fleet.pids[0]
        self._shell.run(f"kill -9 {killed}")
        self._shell.finish(command)
        outcomes = [json.loads(line) for line in self._shell.read("outcomes.jsonl").splitlines()][:-1]
        again = sum(outcome["attempts"] > 1 for outcome in outcomes)
        problems = differences(self._mirror, _FINAL, self._corpus.digests)
        problems += [] if again else ["the killed worker held none"]
        if sorted(self._corpus.digests) != sorted(outcome["item"] for outcome in outcomes):
            problems.append("not every stage has one outcome")
        claim(f"all are there, one outcome each; {again} that it held were done by others", *problems)
        problems = self._fleet.await_flower(killed=killed)
        claim(f"{self._fleet.flower_url} shows it offline, and its supervisor's new one online", *problems)
        self._shell.run(f"{publish}   # again: what is there is used")

    def _await_middle(self, command: Program) -> None:
        with Fleet.connect(self._fleet.redis_url) as fleet:

            def is_in_the_middle() -> bool:
                return not command.alive or any(run.succeeded >= STAGES // 4 for run in fleet.runs())

            wait_until(is_in_the_middle, "a quarter of the stages is copied", seconds=60)

    def _call_back(self) -> None:
        tell(f"\n# From Python: a run waits for its callback, here a slow one; {_WINDOW} stages at a time.")
        self._shell.write("each.py", _PROGRAM)
        shown = self._shell.run("grep for_each each.py; python each.py $SRC $FINAL/called")
        copied, widest = re.findall(r"(\d+) called back for, (\d+) at most", shown)[0]
        chosen = dict(sorted(self._corpus.digests.items())[:_CALLED_BACK])
        problems = differences(self._mirror, _CALLED, chosen)
        problems += [] if int(copied) == _CALLED_BACK else [f"{copied} were called back for"]
        problems += [] if int(widest) == _WINDOW else [f"{widest} were under way or not called back for"]
        claim(f"never more than {_WINDOW} had neither ended nor been called back for", *problems)

    def _fetch(self) -> None:
        if not self._fleet.engines:
            tell(f"\n# Left out: stages for the Docker Engines of two machines ({self._fleet.missing}).")
            return
        tell(f"\n# Jobs on both machines need {_JOB} stages. A cache is near them, and has none yet.")
        job = sorted(self._corpus.digests)[:_JOB]
        fetch = "stagefleet fetch $SRC --cache $CACHE --from-file"
        commands = (f"stagefleet list $SRC | head -{_JOB} | tee job.txt | {fetch} -", f"{fetch} job.txt")
        layers = set().union(*(self._corpus.layers[stage_id] for stage_id in job))
        counts, problems = [], []
        for command, (name, engine) in zip(commands, self._fleet.engines.items(), strict=True):
            for registry in self._registries.values():
                registry.forget_requests()
            self._shell.run(f"{command} --host {name}")
            counts.append((self._count_gets("source", layers), self._count_gets("cache", layers)))
            if engine.tags() != [f"{self._source.host}/{_SOURCE}:{stage_id}" for stage_id in job]:
                problems.append(f"the engine of {name} has {engine.tags()}")
        problems += differences(self._cache, _CACHE, {name: self._corpus.digests[name] for name in job})
        first, second = counts
        if not first[0] or first[1] or second != (0, len(layers)):
            problems.append(f"layers were asked for {first} and {second} times in the primary and the cache")
        one, two = MACHINES
        claim(
            f"layers from source and cache: {first[0]} and {first[1]} for {one}, which filled the cache too; "
            f"{second[0]} and {second[1]} for {two}",
            *problems,
        )

    def _count_gets(self, registry: str, digests: set[str]) -> int:
        """How many times a registry was asked for the content of these blobs."""
        requests = self._registries[registry].requests()
        return sum(
            request.method == "GET" and request.path.rpartition("/")[2] in digests for request in requests
        )
