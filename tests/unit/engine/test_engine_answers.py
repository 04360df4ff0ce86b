"""What an engine's words stand for: those of Docker 20.10 and 28, and of 29 with containerd's image store."""

from __future__ import annotations

import pytest

from stagefleet.engine_errors import explain
from stagefleet.errors import (
    BrokenStageError,
    CredentialsError,
    EngineError,
    NotFoundError,
    PlatformNotFoundError,
    RateLimitedError,
    RegistryUnreachableError,
)

WORDS = [
    ("unknown blob", BrokenStageError),
    ("error pulling image configuration: download failed after attempts=1: unknown blob", BrokenStageError),
    (f"filesystem layer verification failed for digest sha256:{'a' * 64}", BrokenStageError),
    ("manifest for h/app:x not found: manifest unknown: manifest unknown", NotFoundError),
    ("pull access denied for app, repository does not exist or may require 'docker login'", NotFoundError),
    ("no matching manifest for linux/s390x in the manifest list entries", PlatformNotFoundError),
    ("unauthorized: authentication required", CredentialsError),
    ('Head "http://h/v2/app/manifests/x": no basic auth credentials', CredentialsError),
    ("denied: requested access to the resource is denied", CredentialsError),
    ("toomanyrequests: You have reached your pull rate limit", RateLimitedError),
    ('Get "http://h/v2/": dial tcp 127.0.0.1:1: connect: connection refused', RegistryUnreachableError),
    ('Get "https://h/v2/": net/http: TLS handshake timeout', RegistryUnreachableError),
    ("unexpected EOF", RegistryUnreachableError),
    ("received unexpected HTTP status: 502 Bad Gateway", RegistryUnreachableError),
    (
        "failed to register layer: Error processing tar file(exit status 1): unexpected EOF",
        EngineError,
    ),
    ("write /var/lib/docker/tmp/x: no space left on device", EngineError),
    ("something new", EngineError),
]
DIGEST = f"sha256:{'a' * 64}"
COPYING = "failed to copy: httpReadSeeker: failed open:"
RESOLVING = 'failed to resolve reference "h/app:x":'
DENIED = "access denied, repository does not exist or may require authorization:"
COMMITTING = f'failed commit on ref "layer-{DIGEST}": commit failed: unexpected commit digest'
OF_CONTAINERD = [
    (f"{RESOLVING} h/app:x: not found", NotFoundError),
    (f"{RESOLVING} unexpected status from HEAD request to http://h/v2/: 503 Busy", RegistryUnreachableError),
    (f"{RESOLVING} pull {DENIED} server message: insufficient_scope: authorization failed", NotFoundError),
    (f"push {DENIED} authorization failed: no basic auth credentials", CredentialsError),
    (f"{COPYING} could not fetch content descriptor {DIGEST} (a/b) from remote: not found", BrokenStageError),
    (f"{COPYING} content at https://h/v2/app/manifests/{DIGEST} not found: not found", BrokenStageError),
    (f"{COMMITTING} sha256:{'b' * 64}, expected {DIGEST}: failed precondition", BrokenStageError),
    ("short read: expected 10240 bytes but got 10: unexpected EOF", BrokenStageError),
    ("no match for platform in manifest: not found", PlatformNotFoundError),
    (f"failed to extract layer (a/b {DIGEST}) to overlayfs: unexpected EOF", EngineError),
    ("tag does not exist: h/app:x", EngineError),
]


@pytest.mark.parametrize(("words", "kind"), [*WORDS, *OF_CONTAINERD])
def test_the_words_of_an_engine_become_the_error_that_a_registry_would_have_given(words, kind):
    error = explain(words, subject="h/app:x", engine="unix:///run/docker.sock")
    assert kind is type(error)
    assert "h/app:x: the engine at unix:///run/docker.sock says: " + words in str(error)


def test_long_answers_are_cut_and_in_one_line():
    message = str(explain("many\nwords " * 500, subject="x", engine="y"))
    assert len(message) < 600
    assert "\n" not in message
