"""From a Docker Engine's errors to ours; the one border where its words are read.

The engine hands on what a registry told it as text: in a pull's or push's stream there is nothing else
(docker/docker `pkg/jsonmessage`, `distribution/errors.go`). The phrases are those of Docker 20.10 to 28; what
is not known stays an `EngineError` in the engine's words.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import requests
import urllib3
from docker.errors import APIError, DockerException, ImageNotFound, NotFound, StreamParseError

from stagefleet.errors import (
    BrokenStageError,
    CredentialsError,
    EngineError,
    EngineUnreachableError,
    NotFoundError,
    PlatformMissingError,
    RateLimitedError,
    RegistryUnreachableError,
    StagefleetError,
)
from stagefleet.redaction import words_of

__all__ = ["explain", "reaching_engine"]

_NOT_FOUND = 404
_SHOWN_CHARACTERS = 500

_MEANINGS: tuple[tuple[str, type[StagefleetError], str], ...] = (
    (r"failed to register layer|no space left", EngineError, ""),
    (
        r"unknown blob|blob unknown|layer verification failed",
        BrokenStageError,
        "; the registry knows the stage but cannot give all of it",
    ),
    (r"no matching manifest for", PlatformMissingError, ""),
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
"""What a phrase means, the first that fits, and what to tell besides."""


def explain(message: str, *, subject: str, engine: str, status: int = 0) -> StagefleetError:
    """The error that an engine's words stand for.

    Args:
        message: The engine's words.
        subject: The image that it was about.
        engine: Where the engine listens.
        status: The HTTP status, 0 in the middle of a stream.
    """
    words = words_of(" ".join(message.split()), limit=_SHOWN_CHARACTERS)
    told = f"{subject}: the engine at {engine} says: {words}"
    for pattern, kind, advice in _MEANINGS:
        if re.search(pattern, words, re.IGNORECASE):
            return kind(told + advice)
    return EngineError(told, status=status)


@contextmanager
def reaching_engine(engine: str, subject: str) -> Iterator[None]:
    """Make errors of docker-py, requests and urllib3 ours.

    Args:
        engine: Where the engine listens.
        subject: What is asked about.

    Raises:
        EngineUnreachableError: The engine does not answer, or broke off.
        StagefleetError: What `explain` makes of its answer.
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
        ValueError,  # no JSON where JSON is due
    ) as error:
        raise EngineUnreachableError(
            f"the Docker Engine at {engine} does not answer ({type(error).__name__}): see that it runs, "
            "or name another with STAGEFLEET_ENGINE__URL"
        ) from error
