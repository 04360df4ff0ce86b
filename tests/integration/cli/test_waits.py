"""What a person reads while a run waits for a registry that asks for time."""

from __future__ import annotations

import signal
import time

from tests.services.front import Answer, RegistryFront

_ASKED_SECONDS = 6
_FOREVER = "99999999999"


class Limits:
    """Refuses each GET of one manifest until a test has seen that, and those of another one for ever."""

    def __init__(self, brief: str, endless: str) -> None:
        self.brief, self.endless = brief, endless
        self.is_seen = False

    def __call__(self, method: str, path: str) -> Answer | None:
        if method == "GET" and path.endswith(f"/manifests/{self.endless}"):
            return Answer(429, headers=(("Retry-After", _FOREVER),))
        if method == "GET" and path.endswith(f"/manifests/{self.brief}") and not self.is_seen:
            at = str(int(time.time()) + _ASKED_SECONDS)  # as Docker Hub does: in Unix seconds
            return Answer(429, headers=(("Retry-After", at),))
        return None


def test_a_run_that_waits_says_for_whom_and_until_when_and_no_wait_is_without_an_end(
    start, finish, command, environment, registry, push_stages, digests_in, make_workers, redis_server
):
    """R7, W1: a point in time is waited for and said, a wait of decades fails its item alone and says why."""
    digests = push_stages(registry, "source/app", 3)
    brief, endless, plain = digests
    variables = {
        "DOCKER_CONFIG": environment["DOCKER_CONFIG"],
        "STAGEFLEET_HTTP__RETRY_AFTER_LIMIT_SECONDS": "1",
        "STAGEFLEET_RUNS__SWEEP_SECONDS": "0.5",
    }
    make_workers(redis_server.url, environment=variables)
    environment["STAGEFLEET_REDIS_URL"] = redis_server.url
    limits = Limits(brief, endless)
    with RegistryFront(registry.host, limits) as front:
        names = (f"{front.host}/source/app", f"{registry.host}/copy/app")
        following = start("copy", *names, "--json", "--idempotency-key", "k")
        told = following.stderr.readline()
        while "next try" not in told:
            assert told, "it says for whom it waits before it ends"
            told = following.stderr.readline()
        shown = command("runs", "show", "--idempotency-key", "k", "--json")
        limits.is_seen = True
        result = finish(following)
    line = f"1 item waits for {front.host} (429 Too Many Requests), next try at "
    assert told.startswith(f"stagefleet: {line}")
    assert line in shown.err
    assert ["running"] == [found["state"] for found in shown.objects]
    assert (1, {brief: digests[brief], plain: digests[plain]}) == (
        result.code,
        digests_in(registry, "copy/app"),
    )
    *outcomes, summary = result.objects
    assert {brief: "succeeded", plain: "succeeded", endless: "failed"} == {
        outcome["item"]: outcome["state"] for outcome in outcomes
    }
    assert (3, 2, 1) == (summary["total"], summary["succeeded"], summary["failed"])
    (error,) = [outcome["error"] for outcome in outcomes if outcome["error"]]
    assert "RateLimitedError" == error["type"]
    for words in ("429", "asks to wait more than a year", "runs.longest_pause_seconds"):
        assert words in error["message"]


def test_an_interrupt_ends_a_listing_whose_threads_wait_for_a_registry(start, finish, registry, push_stages):
    """R7: every wait hears of the end of the command, also those of its threads, and says for whom it is."""
    push_stages(registry, "source/app", 3)

    def refuse(method: str, path: str) -> Answer | None:
        is_manifest = "/manifests/" in path and method == "GET"
        return Answer(429, headers=(("Retry-After", "300"),)) if is_manifest else None

    with RegistryFront(registry.host, refuse) as front:
        listing = start("list", "-l", f"{front.host}/source/app")
        told = listing.stderr.readline()
        listing.send_signal(signal.SIGINT)
        result = finish(listing)
    assert told == f"stagefleet: {front.host} asks to wait 300 s (429 Too Many Requests)\n"
    assert ("", 3) == (result.out, result.code)
