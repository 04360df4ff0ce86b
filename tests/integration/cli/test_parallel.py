"""How many stages of a run are under way at once, by the ledger and by the registry's own log."""

from __future__ import annotations

import pytest

from stagefleet.runs.redis_ledger import RedisLedger
from stagefleet.settings import Settings
from tests.services.processes import wait_until

STAGES = 9
SLOTS = {"processes": 2, "concurrency": 4}
"""More than any run here may have."""


@pytest.fixture
def ledger(redis_server, cleanup):
    ledger = RedisLedger.connect(redis_server.url, Settings())
    cleanup.callback(ledger.close)
    return ledger


@pytest.fixture
def stages(registry, push_stages):
    return push_stages(registry, "app/stages", STAGES)


@pytest.fixture
def submit(environment, redis_server, registry, command):
    """Submits a run to a fleet without workers; from then on the registry answers nothing."""
    environment["STAGEFLEET_REDIS_URL"] = redis_server.url

    def submit(*arguments):
        submitted = command(*arguments, "--detach")
        assert 0 == submitted.code, submitted.err
        registry.forget_requests()
        registry.pause()
        return submitted.out.strip()

    return submit


@pytest.fixture
def execute(environment, redis_server, registry, command, make_workers, ledger):
    """Has workers carry a run out; the registry answers once all that may be under way is under way."""

    def execute(run, parallel):
        make_workers(redis_server.url, **SLOTS, environment={"DOCKER_CONFIG": environment["DOCKER_CONFIG"]})
        wait_until(lambda: (parallel, 0) == claimed_and_published(ledger.run(run)), f"{parallel} are claimed")
        (shown,) = command("runs", "show", run, "--json").objects
        registry.resume()
        watched = command("runs", "watch", run, "--json")
        assert (0, STAGES) == (watched.code, watched.objects[-1]["succeeded"]), watched.err
        return shown

    return execute


def claimed_and_published(run):
    """The stages under way, and those that a worker could take beside them."""
    return run.claimed, run.published


def most_at_once(requests, stages):
    """The most stages that were between their first and their last request at one place of a log.

    The log is in the order of completion, so that no stage seems to begin before it did; nor does one seem to
    end after it did: its last request is a PUT, whose empty answer leaves when its line has been written.
    """
    spans = []
    for stage in stages:
        places = [n for n, request in enumerate(requests) if request.path.endswith(f"/manifests/{stage}")]
        assert "PUT" == requests[places[-1]].method, "the manifest goes last"
        assert len(places) > 1, "there is a first request before it"
        spans.append(range(places[0], places[-1] + 1))
    return max(sum(n in span for span in spans) for n in range(len(requests)))


@pytest.mark.parametrize("parallel", [1, 3])
def test_a_copy_never_has_more_stages_under_way_than_parallel_says(
    submit, execute, registry, stages, digests_in, parallel
):
    source, destination = (f"{registry.host}/app/{name}" for name in ("stages", "copy"))
    run = submit("copy", source, destination, "--parallel", str(parallel))
    shown = execute(run, parallel)
    assert (parallel, parallel, 0) == (shown["parallel"], shown["claimed"], shown["published"])
    assert most_at_once(registry.requests(), stages) <= parallel
    assert stages == digests_in(registry, "app/copy")


def test_the_limit_of_a_project_holds_where_no_other_is_asked_for(
    submit, execute, registry, stages, digests_in, tmp_path
):
    roles = f'primary = "{registry.host}/app/stages"\nfinal = "{registry.host}/app/final"\n'
    (tmp_path / "stagefleet.toml").write_text(f"[projects.app]\n{roles}parallel = 2\n")
    # With referrers, the last request of a stage would be no PUT.
    shown = execute(submit("publish", "--project", "app", "--no-referrers"), 2)
    assert 2 == shown["parallel"]
    assert most_at_once(registry.requests(), stages) <= 2
    assert stages == digests_in(registry, "app/final")
