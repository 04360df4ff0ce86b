"""Workers and commands of two releases in one fleet, each installed from a wheel of its own."""

import json
import shutil
import subprocess
from functools import partial

import pytest

from stagefleet.runs.versions import SCHEMA_VERSION
from tests.services import ImageMaker, clean_environment, stagefleet_command
from tests.services.images import push_stages
from tests.services.wheels import LIMIT_SECONDS, ROOT, build_wheel, make_environment

OLDER_COMMIT = "a25f618fad13d14ce8cd565bd26f5f427dc70a03"
"""The last commit but a few from before schema versions: its data says nothing about itself."""
RAISED_VERSION = f"{int(SCHEMA_VERSION.split('.')[0]) + 1}.0"
SOURCES = ("stagefleet", "config", "tasks", "workers", "pyproject.toml", "README.md", "LICENSE")


class Release:
    """The command `stagefleet` of one release, with one fleet's settings.

    Args:
        words: What starts the command.
        redis_url: The fleet's Redis.
        folder: The working directory, with no settings in it.
        settings: More environment variables.
    """

    def __init__(self, words, redis_url, folder, **settings):
        self.words, self.folder = words, folder
        self.environment = clean_environment(STAGEFLEET_REDIS_URL=redis_url, **settings)

    def command(self, *arguments):
        return [*self.words, *arguments]

    def run(self, *arguments):
        """Run a command to its end; none may show a traceback."""
        done = subprocess.run(
            self.command(*arguments),
            env=self.environment,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=LIMIT_SECONDS,
            check=False,
        )
        assert "Traceback" not in done.stdout + done.stderr, done.stderr
        return done

    def copy(self, *arguments):
        """Run a copy; returns its exit code, its summary and its outcomes."""
        done = self.run("copy", *arguments, "--json")
        *outcomes, summary = map(json.loads, done.stdout.splitlines())
        return done.returncode, summary, outcomes


@pytest.fixture(scope="module")
def older(tmp_path_factory):
    """A virtual environment with the wheel of `OLDER_COMMIT` and what that commit locked."""
    folder = tmp_path_factory.mktemp("older")
    source, archive = folder / "source", folder / "source.tar"
    git = ["git", "-C", str(ROOT), "archive", "--output", str(archive), OLDER_COMMIT]
    if not shutil.which("git") or subprocess.run(git, capture_output=True, check=False).returncode:
        pytest.skip(f"commit {OLDER_COMMIT[:7]} is not in this clone: run  git fetch --unshallow")
    source.mkdir()
    subprocess.run(["tar", "-xf", str(archive), "-C", str(source)], check=True)
    wheel = build_wheel(source, folder)
    return make_environment(folder / "venv", source / "requirements.lock", wheel)


@pytest.fixture(scope="module")
def raised(tmp_path_factory):
    """A virtual environment with this checkout, its schema's major version raised."""
    folder = tmp_path_factory.mktemp("raised")
    source = folder / "source"
    for name in SOURCES:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        source.mkdir(exist_ok=True)
        copy(ROOT / name, source / name)
    versions = source / "stagefleet" / "runs" / "versions.py"
    text = versions.read_text()
    line = f'SCHEMA_VERSION = "{SCHEMA_VERSION}"'
    assert 1 == text.count(line)
    versions.write_text(text.replace(line, f'SCHEMA_VERSION = "{RAISED_VERSION}"'))
    return make_environment(folder / "venv", ROOT / "requirements.lock", build_wheel(source, folder))


@pytest.fixture
def release(request, redis_server, tmp_path):
    """Names releases: "own", "older", "raised"."""

    def named(name, **settings):
        if name == "own":
            return Release(stagefleet_command(), redis_server.url, tmp_path, **settings)
        venv = request.getfixturevalue(name)
        return Release([str(venv / "bin" / "stagefleet")], redis_server.url, tmp_path)

    return named


@pytest.fixture
def addresses(registry, make_registry):
    """Three stages, and a repository in another registry for them."""
    push_stages(registry, "app", 3)
    return f"{registry.host}/app", f"{make_registry().host}/mirror"


@pytest.fixture
def start_worker(make_workers, redis_server):
    def start(release):
        return make_workers(redis_server.url, command=partial(release.command, "worker"))

    return start


def copied(address):
    host, _, repository = address.partition("/")
    with ImageMaker(host) as images:
        return len(images.tags(repository))


def shown(release, summary):
    """What a release's own `runs show` says about a run."""
    return json.loads(release.run("runs", "show", summary["run"], "--json").stdout)


def check_logs(workers):
    workers.stop()
    assert "Traceback" not in workers.logged(), workers.logged()


@pytest.mark.parametrize(("worker", "client"), [("older", "own"), ("own", "older")])
def test_releases_from_before_schema_versions_work_with_this_one(
    release, start_worker, addresses, worker, client
):
    workers = start_worker(release(worker))

    code, summary, _ = release(client).copy(*addresses)

    assert (0, "succeeded", 3) == (code, summary["state"], summary["succeeded"])
    assert 3 == copied(addresses[1])
    for name in (worker, client):
        found = shown(release(name), summary)
        assert ("succeeded", 3) == (found["state"], found["succeeded"])
    check_logs(workers)


def test_an_older_worker_that_joins_a_run_that_started_early_does_its_items(release, start_worker, addresses):
    """It claims none before the list is complete, and loses the messages that it gets until then."""
    workers = start_worker(release("older"))

    code, summary, _ = release("own", STAGEFLEET_RUNS__START_EARLY="always").copy(*addresses)

    assert (0, "succeeded", 3) == (code, summary["state"], summary["succeeded"])
    assert 3 == copied(addresses[1])
    check_logs(workers)


def test_a_run_of_an_older_client_waits_for_workers_of_this_release(release, start_worker, addresses):
    """As where workers are updated while runs wait."""
    code, summary, _ = release("older").copy(*addresses, "--detach")
    assert 0 == code
    workers = start_worker(release("own"))

    assert 0 == release("own").run("runs", "watch", summary["run"]).returncode
    assert 3 == copied(addresses[1])
    check_logs(workers)


@pytest.mark.parametrize(("worker", "client"), [("raised", "own"), ("own", "raised")])
def test_another_major_version_is_refused_in_one_line_an_item_and_changes_nothing(
    release, start_worker, addresses, worker, client
):
    workers = start_worker(release(worker))

    code, summary, outcomes = release(client).copy(*addresses)

    assert (1, "failed", 3) == (code, summary["state"], summary["failed"])
    assert 3 == len(outcomes)
    for outcome in outcomes:
        error = outcome["error"]
        assert ("IncompatibleVersionError", 1) == (error["type"], outcome["attempts"])
        assert "\n" not in error["message"]
        assert f"(schema {SCHEMA_VERSION})" in error["message"]
        assert f"(schema {RAISED_VERSION})" in error["message"]
    assert 0 == copied(addresses[1])
    found = shown(release(client), summary)
    assert ("failed", 3, 0) == (found["state"], found["failed"], found["succeeded"])

    code, summary, _ = release(worker).copy(*addresses)  # the worker goes on with what it can read
    assert (0, 3) == (code, summary["succeeded"])
    assert 3 == copied(addresses[1])
    check_logs(workers)


def test_commands_refuse_a_run_of_a_newer_major_version_in_one_line(release, addresses):
    """No worker listens: the run stays as its own release left it."""
    code, summary, _ = release("raised").copy(*addresses, "--detach")
    assert 0 == code
    run = summary["run"]

    for words in (["watch", run], ["cancel", run], ["retry", run]):
        done = release("own").run("runs", *words)
        assert (2, 1) == (done.returncode, len(done.stderr.splitlines())), done.stderr
        assert f"(schema {RAISED_VERSION})" in done.stderr
    assert "running" == shown(release("raised"), summary)["state"]
