"""What the documents' snippets run on: registries with stages, a Redis with a worker, an engine, a receiver.

Where they name hosts that nobody has, ours stand in their place; nothing else of them changes.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import sys
import uuid
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from stagefleet import Fleet
from stagefleet.settings import Settings
from tests.documents import snippets
from tests.services import (
    DockerEngine,
    ImageMaker,
    Program,
    RedisServer,
    RegistryServer,
    ServiceMissingError,
    Workers,
    archive_of,
    clean_environment,
    stage_id_of,
    stagefleet_command,
)
from tests.services.processes import find_program, wait_until
from tests.services.receiver import SECRET, WebhookReceiver

SECONDS = 60
"""The longest that a snippet may take."""
_SOURCES = ("app", "app/stages", "old/stages", "owner/app/stages")
"""The repositories that have stages before a snippet runs."""
_STAGES = 3
_HOST = "builder"
_LOGIN = "me:hunter2"
_PROGRAMS = {"jq": "apt-get install jq", "curl": "apt-get install curl"}
_FOREIGN = re.compile(r"[\w.-]+\.example\b[\w.:-]*")

# What stays in the foreground gets a terminal of its own, as the reader would give it, and is waited for.
_COMMAND = """\
#!/bin/bash
case "${1-}" in
    worker) event=listening ;;
    flower) event=ready ;;
    *) exec '%(command)s' "$@" ;;
esac
log=$(mktemp "$HOME/$event.XXXXXX")
'%(command)s' "$@" </dev/null >"$log" 2>&1 &
grep -q -m1 "\"$event\"" < <(tail -n +1 -f --pid=$! "$log") && exit 0
cat "$log" >&2
exit 1
"""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a snippet ended, and where."""

    code: int
    out: str
    err: str
    folder: Path


class Stand:
    """Services for snippets; made once, its registries are filled anew for each.

    Args:
        folder: Names folders, a new one each time.
        stack: Ends what was started.
    """

    def __init__(self, folder: Callable[[str], Path], stack: ExitStack) -> None:
        self._folder, self._stack = folder, stack
        self.registry, self.mirror = self._registry(), self._registry()
        self.receiver = stack.enter_context(WebhookReceiver())
        self.redis = RedisServer(folder("redis"))
        stack.callback(self.redis.stop)
        self.redis.start()
        self._engine, self._no_engine = self._start_engine()
        self._flower = ""
        self._fill()
        workers = Workers(self.redis.url, folder("workers"), environment=self._worker_environment())
        stack.callback(workers.stop)
        workers.start()

    def renew(self) -> None:
        """Give the registries the stages of the beginning, and the engine nothing."""
        self.mirror.renew()
        self.registry.renew()
        shutil.copytree(self._filled, self.registry.root)
        if self._engine is not None:
            self._engine.renew()

    def needs(self, text: str) -> None:
        """Make sure that there is what a snippet asks for besides.

        Raises:
            ServiceMissingError: There is not.
        """
        for program, install in _PROGRAMS.items():
            if re.search(rf"(?:^|[|;&] *){program} ", text, re.MULTILINE):
                find_program(program, install=install)
        if self._no_engine is not None and re.search(r"\bfetch |hold_stage|docker-daemon:", text):
            raise self._no_engine

    def replaced(self, text: str) -> str:
        """Put our hosts, repositories and names in place of those that nobody has."""
        for pattern, ours in self._replacements():
            text = re.sub(pattern, ours, text)
        left = _FOREIGN.findall(text)
        assert not left, f"{left[0]} is no host that tests/integration/snippets/stand.py knows: add it there"
        if "FLOWER" in text:
            text = text.replace("https://FLOWER", self._start_flower())
        return text

    def run(self, script: str, *, file: str = "snippet.sh", alone: bool = False, **variables: str) -> Ended:
        """Run a script in a fresh folder, with the settings that the documents give their project.

        Args:
            script: What to run, for bash, or as `file` ends in `.py` for Python.
            file: Its file.
            alone: Whether no Redis is configured.
            **variables: More of its environment.
        """
        home = self._folder("snippet")
        (home / "bin").mkdir(parents=True)
        (home / file).write_text(script)
        (home / "stagefleet.toml").write_text(self._project_settings())
        (home / "logins.json").write_text("{}")
        command = home / "bin" / "stagefleet"
        command.write_text(_COMMAND % {"command": Path(sys.executable).parent / "stagefleet"})
        command.chmod(0o700)
        interpreter = [sys.executable] if file.endswith(".py") else ["bash"]
        program = Program(
            ["env", f"--chdir={home}", *interpreter, file],
            folder=home,
            name="snippet",
            environment=self._environment(home, alone=alone) | variables,
        )
        try:
            code = program.wait(SECONDS)
        finally:
            _end(program)
        return Ended(code, program.printed(), program.logged(), home)

    def runs(self) -> set[str]:
        """The runs that there are."""
        with self.fleet() as fleet:
            return {run.id for run in fleet.runs()}

    def unsuccessful(self, runs: set[str]) -> list[str]:
        """Wait for the end of runs, and tell of those that did not succeed."""
        with self.fleet() as fleet:
            ended = [fleet.wait(run_id) for run_id in sorted(runs)]
        return [f"{run.id}: {run.state} {run.error}" for run in ended if run.state != "succeeded"]

    def fleet(self) -> Fleet:
        """A fleet of the stand's Redis."""
        return Fleet.connect(self.redis.url, settings=Settings())

    def _registry(self) -> RegistryServer:
        server = RegistryServer(self._folder("registry"))
        self._stack.callback(server.stop)
        return server.start()

    def _start_engine(self) -> tuple[DockerEngine | None, ServiceMissingError | None]:
        try:
            engine = DockerEngine(self._folder("engine"))
        except ServiceMissingError as error:
            return None, error
        self._stack.callback(engine.stop)
        return engine.start(), None

    def _fill(self) -> None:
        with ImageMaker(self.registry) as maker:
            for path in _SOURCES:
                for number in range(_STAGES):
                    layers = [
                        archive_of({"base": b"shared"}),
                        archive_of({"own": f"{path}{number}".encode()}),
                    ]
                    stage_id = stage_id_of(f"{path} {number}", 1_764_028_800_000 + number)
                    maker.push_image(path, stage_id, layers=layers, labels={"werf": "app"})
            self._stage_id = maker.tags("app/stages")[0]
        self._filled = self._folder("filled")
        shutil.copytree(self.registry.root, self._filled)

    def _worker_environment(self) -> dict[str, str]:
        engine = {} if self._engine is None else {"STAGEFLEET_ENGINE__URL": self._engine.url}
        return {"STAGEFLEET_ENGINE__HOST": _HOST, "STAGEFLEET_WEBHOOKS__SECRET": SECRET, **engine}

    def _environment(self, home: Path, *, alone: bool) -> dict[str, str]:
        environment = clean_environment(
            HOME=str(home),
            PATH=os.pathsep.join([str(home / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]]),
            STAGEFLEET_WORKER__PROCESSES="1",
            LOGIN=_LOGIN,
            STAGEFLEET_FLOWER__PORT="0",
            CI_PIPELINE_ID=uuid.uuid4().hex,
            GITHUB_RUN_ID=uuid.uuid4().hex,
            BUILD_TAG=uuid.uuid4().hex,
            WORKSPACE_TMP=str(home),
            CI_REGISTRY_IMAGE=f"{self.registry.host}/app",
            REGISTRY_LOGINS=str(home / "logins.json"),
            **self._worker_environment(),
        )
        environment.pop("DOCKER_CONFIG", None)
        return environment if alone else environment | {"STAGEFLEET_REDIS_URL": self.redis.url}

    def _project_settings(self) -> str:
        (settings,) = [
            one.text for one in snippets() if one.page == "docs/projects.md" and one.language == "toml"
        ]
        return self.replaced(settings)

    def _replacements(self) -> list[tuple[str, str]]:
        registry, mirror = self.registry.host, self.mirror.host
        return [
            (r"\bredis(?:\.example\.com)?:6379\b", self.redis.host),
            (r"\bregistry\.example\.com\b|\bghcr\.io\b", registry),
            (r"\bmirror\.example\.com\b|\bcache\.example\.com:5000\b", mirror),
            (r"https://ci\.example\.com(?=/)", self.receiver.url),
            (r"https://flower\.example\.com(?=/)", "https://FLOWER"),
            (r"\bOWNER/", "owner/"),
            (r"\$\{\{ secrets\.REGISTRY_LOGINS \}\}", "'{}'"),
            (r"\bSRC\b(?!=)", f"{registry}/app/stages"),
            (r"\bDST\b(?!=)", f"{mirror}/app/stages"),
            (r"\bFINAL\b(?!=)", f"{mirror}/app/final"),
            (r"\bNEAR\b", f"{mirror}/near"),
            (r"\bSTAGE_ID\b", self._stage_id),
            (
                r"\bpipx install '?\./stagefleet(?:\[[a-z,]+\])?'?",
                "stagefleet --version",
            ),  # this checkout's is there already
        ]

    def _start_flower(self) -> str:
        if not self._flower:
            user, _, password = _LOGIN.partition(":")
            home = self._folder("flower")
            home.mkdir()
            program = Program(
                stagefleet_command("flower", "--port", "0"),
                folder=home,
                name="flower",
                environment=clean_environment(
                    STAGEFLEET_REDIS_URL=self.redis.url,
                    STAGEFLEET_FLOWER__USER=user,
                    STAGEFLEET_FLOWER__PASSWORD=password,
                ),
            )
            self._stack.callback(program.stop)
            self._flower = program.wait_for(r'"url": *"(http:[^"]+)"')[1]
        return self._flower


def _end(program: Program) -> None:
    """End what a snippet left in the background: workers are told to, and sign off."""

    def is_empty() -> bool:
        try:
            os.killpg(program.pid, 0)
        except ProcessLookupError:
            return True
        return False

    with suppress(ProcessLookupError):
        os.killpg(program.pid, signal.SIGTERM)
    with suppress(TimeoutError):
        wait_until(is_empty, "the snippet's processes end", seconds=20)
    program.kill()
