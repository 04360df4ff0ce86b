"""Mapping of a Docker Engine's errors to ours; the only module that reads their text.

The engine passes on a registry's error as text: the stream of a pull or push holds nothing else
(docker/docker `pkg/jsonmessage`, `distribution/errors.go`). The phrases are those of Docker 20.10 to 28; an
unknown one becomes an `EngineError` with the engine's text.
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
    PlatformNotFoundError,
    RateLimitedError,
    RegistryUnreachableError,
    StagefleetError,
)
from stagefleet.redaction import words_of

__all__ = ["explain", "map_engine_errors"]

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
    """Build the error for an engine's message.

    Args:
        message: The engine's message.
        subject: The requested image.
        engine: The engine's address.
        status: The HTTP status, 0 in the middle of a stream.
    """
    words = words_of(" ".join(message.split()), limit=_SHOWN_CHARACTERS)
    told = f"{subject}: the engine at {engine} says: {words}"
    for pattern, kind, advice in _MEANINGS:
        if re.search(pattern, words, re.IGNORECASE):
            return kind(told + advice)
    return EngineError(told, status=status)


@contextmanager
def map_engine_errors(engine: str, subject: str) -> Iterator[None]:
    """Map errors of docker-py, requests and urllib3 to ours.

    Args:
        engine: The engine's address.
        subject: The requested image.

    Raises:
        EngineUnreachableError: The engine does not answer, or broke off.
        StagefleetError: As `explain` maps the engine's error.
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
