"""Credential helpers: external programs that store logins, called as Docker calls them.

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
from stagefleet.leases import SLICE_SECONDS, current_lease
from stagefleet.redaction import quoted

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_OUR_PREFIX = "STAGEFLEET_"
"""Prefix of our own environment variables, secrets among them, which a helper does not get."""
_NOT_FOUND = b"credentials not found"  # all helpers' message starts so, with exit code 1


def ask_helper(name: str, address: str, *, timeout_seconds: float) -> tuple[str, str] | None:
    """Ask a helper for a login.

    Errors never quote the helper's output: it may hold a secret.

    Args:
        name: The helper's name in the configuration file, without `docker-credential-`.
        address: The key under which the helper stores the login.
        timeout_seconds: Time limit; afterwards the helper is killed with its child processes.

    Returns:
        User name and secret, None if the helper has no login for the address.

    Raises:
        CredentialsError: The helper is not installed, fails, takes too long, or writes malformed output.
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
    """Run a helper in its own process group, so that its children end with it."""
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
    """Return the helper's output; wait for it under this thread's lease."""
    lease, ends_at = current_lease(), time.monotonic() + timeout_seconds
    question: bytes | None = address.encode()
    while (left := ends_at - time.monotonic()) > 0:
        try:
            return process.communicate(question, timeout=min(left, SLICE_SECONDS))[0]
        except subprocess.TimeoutExpired:
            lease.check()
            question = None  # the first call has sent it
    raise TimeoutError
