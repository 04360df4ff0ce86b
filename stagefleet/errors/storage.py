"""What is found in a storage, and is not what was wanted."""

from __future__ import annotations

from stagefleet.errors.base import StagefleetError

__all__ = [
    "BrokenRecordError",
    "BrokenStageError",
    "ContentError",
    "CustomTagError",
    "DigestMismatchError",
    "ImageInUseError",
    "IndexStaysError",
    "PlatformMissingError",
    "SharedDigestError",
    "StageNotFoundError",
    "StorageStateChangedError",
    "StoredDigestError",
    "TruncatedError",
    "UnsupportedManifestError",
]


class ContentError(StagefleetError):
    """What arrived is not what was asked for."""


class DigestMismatchError(ContentError):
    """Content whose digest or size is not the one that names it.

    Args:
        message: What went wrong.
        found: The digest that the content has; "" where only its size is known.
    """

    retryable = True

    def __init__(self, message: str, *, found: str = "") -> None:
        super().__init__(message)
        self.found = found


class StoredDigestError(DigestMismatchError):
    """A registry says that it stored something else than it was sent; another attempt would be no better."""

    retryable = False


class TruncatedError(ContentError):
    """Content that broke off and could not be resumed."""

    retryable = True


class UnsupportedManifestError(ContentError):
    """A manifest of a kind that is neither Docker's nor OCI's."""


class BrokenStageError(ContentError):
    """The registry knows of the stage, but cannot give its manifest or one of its blobs."""


class BrokenRecordError(ContentError):
    """A record whose labels are missing or say what cannot be; it is left alone."""


class StageNotFoundError(StagefleetError):
    """The stage does not exist, or not any more."""


class PlatformMissingError(StagefleetError):
    """A stage has no image for a platform that was asked for; says which it has."""


class StorageStateChangedError(StagefleetError):
    """A storage is not any more what it was found to be a moment ago: look again, and go on from there."""

    retryable = True
    retry_pauses_seconds = (2.0, 4.0, 8.0, 10.0)


class ImageInUseError(StagefleetError):
    """A job or a container on the host uses the image; says which, and what to do."""


class CustomTagError(StagefleetError):
    """A custom tag is missing, or names another image than the stage that it was given to."""


class SharedDigestError(StagefleetError):
    """Deleting would take tags that nobody asked for, and the registry leaves no other way."""


class IndexStaysError(StagefleetError):
    """A stage stays, for an index of the same run that has it as a member could not be deleted."""
