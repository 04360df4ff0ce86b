"""Errors about the content of a storage."""

from __future__ import annotations

from stagefleet.errors.base import StagefleetError

__all__ = [
    "BrokenRecordError",
    "BrokenStageError",
    "ContentError",
    "CustomTagError",
    "DigestMismatchError",
    "ImageInUseError",
    "IndexNotDeletedError",
    "PlatformNotFoundError",
    "SharedDigestError",
    "StageNotFoundError",
    "StorageStateChangedError",
    "StoredDigestError",
    "TruncatedError",
    "UnsupportedManifestError",
]


class ContentError(StagefleetError):
    """The content is not the expected one."""


class DigestMismatchError(ContentError):
    """The digest or size of the content does not match its name.

    Args:
        message: The problem.
        found: The actual digest; "" if only the size is known.
    """

    retryable = True

    def __init__(self, message: str, *, found: str = "") -> None:
        super().__init__(message)
        self.found = found


class StoredDigestError(DigestMismatchError):
    """A registry reports that it stored other content than it was sent; a retry would not help."""

    retryable = False


class TruncatedError(ContentError):
    """The content broke off and could not be resumed."""

    retryable = True


class UnsupportedManifestError(ContentError):
    """The manifest is neither of a Docker nor of an OCI type."""


class BrokenStageError(ContentError):
    """The registry lists the stage, but cannot serve its manifest or one of its blobs."""


class BrokenRecordError(ContentError):
    """The labels of a record are missing or invalid; the record is not modified."""


class StageNotFoundError(StagefleetError):
    """The stage does not exist, or no longer."""


class PlatformNotFoundError(StagefleetError):
    """A stage has no image for a requested platform; the message lists those it has."""


class StorageStateChangedError(StagefleetError):
    """The storage changed after it was read: read it again, and continue from there."""

    retryable = True
    retry_pauses_seconds = (2.0, 4.0, 8.0, 10.0)


class ImageInUseError(StagefleetError):
    """A job or a container on the host uses the image; the message names it, and says what to do."""


class CustomTagError(StagefleetError):
    """A custom tag is missing, or names an image other than that of its stage."""


class SharedDigestError(StagefleetError):
    """Deletion would remove tags that were not selected, and the registry offers no other way."""


class IndexNotDeletedError(StagefleetError):
    """A stage is kept, because an index of the same run with it as a member could not be deleted."""
