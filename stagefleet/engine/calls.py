"""Calls to a Docker Engine: abandoned where it is silent, and its errors mapped to ours."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import contextmanager
from typing import TypeVar

import requests
import urllib3
from docker.errors import APIError, DockerException, ImageNotFound, NotFound, StreamParseError

from stagefleet.errors import (
    BrokenStageError,
    CredentialsError,
    EngineError,
    EngineUnreachableError,
    ItemCancelledError,
    NotFoundError,
    PlatformNotFoundError,
    RateLimitedError,
    RegistryUnreachableError,
    StagefleetError,
)
from stagefleet.leases import SLICE_SECONDS, Lease
from stagefleet.redaction import words_of

# Calls to a Docker Engine that the caller can abandon: a silent engine must not delay a cancelled item.

_Result = TypeVar("_Result")

Heed = Callable[[], None]
"""Called between two events of an engine; raises to end the call."""


def call_under_lease(call: Callable[[Heed], _Result], lease: Lease) -> _Result:
    """Run a call in a thread, and abandon it when the lease ends; errors as of `Lease.check`.

    `call` must call its argument now and then: abandoned, it ends at the engine's next event, or after its
    time-out.
    """
    left = threading.Event()
    answer: Future[_Result] = Future()

    def heed() -> None:
        lease.check()
        if left.is_set():
            raise ItemCancelledError("nobody waits for this any more")

    def run() -> None:
        try:
            answer.set_result(call(heed))
        except BaseException as error:  # noqa: BLE001 - the waiting thread raises it
            answer.set_exception(error)

    threading.Thread(target=run, name="engine-call", daemon=True).start()
    try:
        while True:
            try:
                return answer.result(timeout=SLICE_SECONDS)
            except FutureTimeoutError:
                if answer.done():  # the error of the call itself
                    raise
            lease.check()
    finally:
        left.set()


# Mapping of a Docker Engine's errors to ours; the only module that reads their text.
#
# The engine passes on a registry's error as text: the stream of a pull or push holds nothing else
# (docker/docker `pkg/jsonmessage`, `distribution/errors.go`). The phrases are those of Docker 20.10 to 28; an
# unknown one becomes an `EngineError` with the engine's text.

_NOT_FOUND = 404
_SHOWN_CHARACTERS = 500

_MEANINGS: tuple[tuple[str, type[StagefleetError], str], ...] = (
    (r"failed to register layer|no space left", EngineError, ""),
    (
        r"unknown blob|blob unknown|layer verification failed",
        BrokenStageError,
        "; the registry knows the stage but cannot give all of it",
    ),
    (r"no matching manifest for", PlatformNotFoundError, ""),
    (r"manifest unknown|name unknown|does not exist or may require", NotFoundError, ""),
    (
        r"unauthorized|no basic auth credentials|\bdenied: ",
        CredentialsError,
        "; check the login of its registry in the Docker configuration file",
    ),
    (r"toomanyrequests|too many requests", RateLimitedError, ""),
    (
        (
            r"\bdial (?:tcp|unix)\b|connection (?:refused|reset)|i/o timeout|handshake timeout|no such host|"
            r"\bEOF\b|Client\.Timeout|request canceled|received unexpected HTTP status: 5"
        ),
        RegistryUnreachableError,
        "; see that its host reaches the registry",
    ),
)
"""Phrases, the error class of each, and more text for the message; the first match counts."""


def explain(message: str, *, subject: str, engine: str, status: int = 0) -> StagefleetError:
    """Build the error for an engine's message about a requested image; status 0 in the middle of a stream."""
    words = words_of(" ".join(message.split()), limit=_SHOWN_CHARACTERS)
    told = f"{subject}: the engine at {engine} says: {words}"
    for pattern, kind, advice in _MEANINGS:
        if re.search(pattern, words, re.IGNORECASE):
            return kind(told + advice)
    return EngineError(told, status=status)


@contextmanager
def map_engine_errors(engine: str, subject: str) -> Iterator[None]:
    """Map errors of docker-py, requests and urllib3 to ours, with `explain`.

    An engine that does not answer, or broke off, is an `EngineUnreachableError`.
    """
    try:
        yield
    except (ImageNotFound, NotFound) as error:
        told = words_of(error.explanation or error, limit=_SHOWN_CHARACTERS)
        raise NotFoundError(f"{subject}: the engine at {engine} says: {told}", status=_NOT_FOUND) from error
    except APIError as error:
        words = str(error.explanation or error)
        raise explain(words, subject=subject, engine=engine, status=error.status_code or 0) from error
    except (
        DockerException,
        StreamParseError,
        requests.RequestException,
        urllib3.exceptions.HTTPError,
        OSError,
        ValueError,  # malformed JSON
    ) as error:
        raise EngineUnreachableError(
            f"the Docker Engine at {engine} does not answer ({type(error).__name__}): see that it runs, "
            "or name another with STAGEFLEET_ENGINE__URL"
        ) from error
