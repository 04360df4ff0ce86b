"""Errors of a Docker Engine, mapped to ours; nothing else reads their text.

The engine passes on a registry's error as text: the stream of a pull or push holds nothing else
(docker/docker `pkg/jsonmessage`, `distribution/errors.go`). The phrases are those of Docker 20.10 to 29, with
the classic image store and with containerd's (containerd `core/remotes/docker`, `core/content`); an unknown
one becomes an `EngineError` with the engine's text.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterator
from contextlib import contextmanager

import requests
import urllib3
from docker.errors import APIError, DockerException, ImageNotFound, NotFound, StreamParseError

from stagefleet import errors
from stagefleet.redaction import words_of

try:
    import paramiko  # type: ignore[import-untyped]
except ImportError:  # the extra `ssh` is not installed: nothing raises them
    _SSH_ERRORS: tuple[type[Exception], ...] = ()
else:
    _SSH_ERRORS = (paramiko.SSHException,)

_UNANSWERED: tuple[type[Exception], ...] = (
    DockerException,
    StreamParseError,
    requests.RequestException,
    urllib3.exceptions.HTTPError,
    OSError,
    ValueError,  # malformed JSON
    *_SSH_ERRORS,
)

SHOWN_CHARACTERS = 500
"""The maximum of an engine's words that a message quotes."""
_LOGIN_ADVICE = "; check the login of its registry in the Docker configuration file"

_MEANINGS: tuple[tuple[str, type[errors.StagefleetError], str], ...] = (
    (r"failed to (?:register|extract) layer|no space left", errors.EngineError, ""),
    (
        (
            r"unknown blob|blob unknown|layer verification failed|unexpected commit digest|"
            r"failed size validation|short read: expected|content (?:at|descriptor) .* not found$"
        ),
        errors.BrokenStageError,
        "; the registry knows the stage but cannot give all of it",
    ),
    (r"no matching manifest for|no match for platform", errors.PlatformNotFoundError, ""),
    (r"authorization failed: no basic auth credentials", errors.CredentialsError, _LOGIN_ADVICE),
    (
        r"manifest unknown|name unknown|does not exist or may require|failed to resolve .* not found$",
        errors.NotFoundError,
        "",
    ),
    (r"unauthorized|no basic auth credentials|\bdenied: ", errors.CredentialsError, _LOGIN_ADVICE),
    (r"toomanyrequests|too many requests", errors.RateLimitedError, ""),
    (
        (
            r"\bdial (?:tcp|unix)\b|connection (?:refused|reset)|i/o timeout|handshake timeout|no such host|"
            r"\bEOF\b|Client\.Timeout|request canceled|received unexpected HTTP status: 5|"
            r"unexpected status from .*: 5\d\d\b"
        ),
        errors.RegistryUnreachableError,
        "; see that its host reaches the registry",
    ),
)
"""Phrases, the error class of each, and more text for the message; the first match counts."""


def explain(message: str, *, subject: str, engine: str, status: int = 0) -> errors.StagefleetError:
    """Build the error for an engine's message about a requested image; status 0 in the middle of a stream."""
    words = words_of(" ".join(message.split()), limit=SHOWN_CHARACTERS)
    if refuses_version(words):
        return errors.EngineUnreachableError(
            f"{subject}: the engine at {engine} was updated meanwhile; its API version is agreed on anew"
        )
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
        raise errors.NotFoundError(f"{subject}: the engine at {engine} says: {told}", status=404) from error
    except APIError as error:
        words = str(error.explanation or error)
        raise explain(words, subject=subject, engine=engine, status=error.status_code or 0) from error
    except _UNANSWERED as error:
        raise _explain_unreachable(error, engine) from error


def refuses_version(message: str) -> bool:
    """Return True if an engine refuses a request's API version (moby `api/server/middleware/version.go`)."""
    return re.search(r"client version \S+ is too (old|new)", message) is not None


def _explain_unreachable(error: Exception, engine: str) -> errors.StagefleetError:
    """Build the error for an engine that cannot be asked, by the first cause that a person can mend."""
    subject = f"the Docker Engine at {engine}"
    causes = list(_causes(error))
    if any(isinstance(cause, PermissionError) for cause in causes):
        return errors.SettingsError(
            f"{subject} may not be used by this user: add the user to the socket's group (docker), "
            "or name another engine, as a rootless one, with STAGEFLEET_ENGINE__URL"
        )
    if "HTTP request to an HTTPS server" in str(error):
        return errors.SettingsError(
            f"{subject} wants TLS: set DOCKER_TLS_VERIFY=1, and DOCKER_CERT_PATH to its certificates' folder"
        )
    failed_tls = next((cause for cause in causes if isinstance(cause, ssl.SSLError)), None)
    if failed_tls is not None:
        reason = words_of(
            getattr(failed_tls, "verify_message", "") or failed_tls.reason or "no TLS", limit=100
        )
        return errors.SettingsError(
            f"{subject} and this client do not agree on TLS ({reason}): see DOCKER_TLS_VERIFY, "
            "the certificates in DOCKER_CERT_PATH, and its port (2376 with TLS, 2375 without)"
        )
    if engine.startswith("ssh://"):
        return errors.EngineUnreachableError(
            f"{subject} cannot be reached over SSH ({type(error).__name__}): see that its key is known, "
            f"and that  ssh {engine} docker version  asks nothing"
        )
    if engine.startswith("unix://") and any(isinstance(cause, FileNotFoundError) for cause in causes):
        return errors.EngineUnreachableError(
            f"there is no socket of a Docker Engine at {engine}: start the engine, or name another with "
            "STAGEFLEET_ENGINE__URL"
        )
    return errors.EngineUnreachableError(
        f"{subject} does not answer ({type(error).__name__}): see that it runs, "
        "or name another with STAGEFLEET_ENGINE__URL"
    )


def _causes(error: BaseException) -> Iterator[BaseException]:
    """List an error and those that led to it, of which requests and urllib3 hold some as arguments."""
    found: dict[int, BaseException] = {}
    left: list[object] = [error]
    while left:
        cause = left.pop(0)
        if isinstance(cause, BaseException) and id(cause) not in found:
            found[id(cause)] = cause
            left += [cause.__cause__, cause.__context__, getattr(cause, "reason", None), *cause.args]
    yield from found.values()
