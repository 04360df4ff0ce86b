"""Credential helpers: programs that keep logins, called as Docker calls them.

Protocol: docker/docker-credential-helpers, "Development". `docker-credential-NAME get` reads the registry's
address on stdin and writes `{"ServerURL", "Username", "Secret"}`.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from contextlib import suppress

from stagefleet.errors import CredentialsError
from stagefleet.redaction import quoted
from stagefleet.registry.leash import SLICE_SECONDS, current_leash

__all__ = ["ask_helper"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_OUR_PREFIX = "STAGEFLEET_"
"""Of our own settings, secrets among them, which are no helper's affair."""
_NOT_FOUND = b"credentials not found"  # the start of what all helpers say, with exit code 1


def ask_helper(name: str, address: str, *, timeout_seconds: float) -> tuple[str, str] | None:
    """Ask a helper for a login.

    What a helper writes is never quoted: nobody knows what it writes when it fails.

    Args:
        name: As it stands in the configuration file, without `docker-credential-`.
        address: The name under which the helper keeps the login.
        timeout_seconds: How long it may take; then it is killed, with what it started.

    Returns:
        User name and secret, None if the helper has no login for the address.

    Raises:
        CredentialsError: It is not there, fails, takes too long, or answers something else.
    """
    if _NAME.fullmatch(name) is None:
        raise CredentialsError(f"{quoted(name)} is no name of a credential helper")
    program = f"docker-credential-{name}"
    returncode, output = _run(program, address, timeout_seconds)
    if returncode != 0:
        if _NOT_FOUND in output:
            return None
        raise CredentialsError(
            f"the credential helper {program} failed with exit code {returncode}; "
            f"to see why, run: echo {address} | {program} get"
        )
    try:
        answer = json.loads(output)
    except (ValueError, RecursionError):
        answer = None
    if isinstance(answer, dict):
        username, secret = answer.get("Username"), answer.get("Secret")
        if isinstance(username, str) and isinstance(secret, str):
            return (username, secret) if secret else None
    raise CredentialsError(f"the credential helper {program} answers without Username and Secret")


def _run(program: str, address: str, timeout_seconds: float) -> tuple[int, bytes]:
    """Run a helper in a process group of its own, so that its children end with it."""
    try:
        process = subprocess.Popen(  # noqa: S603 - the user's own file names it, `_NAME` has seen it
            [program, "get"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={name: text for name, text in os.environ.items() if not name.startswith(_OUR_PREFIX)},
            process_group=0,
        )
    except OSError as error:
        raise CredentialsError(
            f"the credential helper {program} cannot be started ({error.strerror}): "
            "install it, or take it out of the Docker configuration file"
        ) from None
    with process:
        try:
            output = _answer(process, address, timeout_seconds)
        except TimeoutError:
            raise CredentialsError(
                f"the credential helper {program} did not answer in {timeout_seconds:g} s"
            ) from None
        finally:
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
    return process.returncode, output


def _answer(process: subprocess.Popen[bytes], address: str, timeout_seconds: float) -> bytes:
    """What a helper writes; waited for under this thread's leash.

    Raises:
        TimeoutError: It takes too long.
    """
    leash, ends_at = current_leash(), time.monotonic() + timeout_seconds
    question: bytes | None = address.encode()
    while (left := ends_at - time.monotonic()) > 0:
        try:
            return process.communicate(question, timeout=min(left, SLICE_SECONDS))[0]
        except subprocess.TimeoutExpired:
            leash.check()
            question = None  # the first call has it
    raise TimeoutError
