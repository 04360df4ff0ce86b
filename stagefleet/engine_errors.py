"""Errors of a Docker Engine, mapped to ours; nothing else reads their text.

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

from stagefleet import errors
from stagefleet.redaction import words_of

SHOWN_CHARACTERS = 500
"""The maximum of an engine's words that a message quotes."""
_NOT_FOUND = 404

_MEANINGS: tuple[tuple[str, type[errors.StagefleetError], str], ...] = (
    (r"failed to register layer|no space left", errors.EngineError, ""),
    (
        r"unknown blob|blob unknown|layer verification failed",
        errors.BrokenStageError,
        "; the registry knows the stage but cannot give all of it",
    ),
    (r"no matching manifest for", errors.PlatformNotFoundError, ""),
    (r"manifest unknown|name unknown|does not exist or may require", errors.NotFoundError, ""),
    (
        r"unauthorized|no basic auth credentials|\bdenied: ",
        errors.CredentialsError,
        "; check the login of its registry in the Docker configuration file",
    ),
    (r"toomanyrequests|too many requests", errors.RateLimitedError, ""),
    (
        (
            r"\bdial (?:tcp|unix)\b|connection (?:refused|reset)|i/o timeout|handshake timeout|no such host|"
            r"\bEOF\b|Client\.Timeout|request canceled|received unexpected HTTP status: 5"
        ),
        errors.RegistryUnreachableError,
        "; see that its host reaches the registry",
    ),
)
"""Phrases, the error class of each, and more text for the message; the first match counts."""


def explain(message: str, *, subject: str, engine: str, status: int = 0) -> errors.StagefleetError:
    """Build the error for an engine's message about a requested image; status 0 in the middle of a stream."""
    words = words_of(" ".join(message.split()), limit=SHOWN_CHARACTERS)
    told = f"{subject}: the engine at {engine} says: {words}"
    for pattern, kind, advice in _MEANINGS:
        if re.search(pattern, words, re.IGNORECASE):
            return kind(told + advice)
    return errors.EngineError(told, status=status)


@contextmanager
def map_engine_errors(engine: str, subject: str) -> Iterator[None]:
    """Map errors of docker-py, requests and urllib3 to ours, with `explain`.

    An engine that does not answer, or broke off, is an `EngineUnreachableError`.
    """
    try:
        yield
    except (ImageNotFound, NotFound) as error:
        told = words_of(error.explanation or error, limit=SHOWN_CHARACTERS)
        raise errors.NotFoundError(
            f"{subject}: the engine at {engine} says: {told}", status=_NOT_FOUND
        ) from error
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
        raise errors.EngineUnreachableError(
            f"the Docker Engine at {engine} does not answer ({type(error).__name__}): see that it runs, "
            "or name another with STAGEFLEET_ENGINE__URL"
        ) from error
