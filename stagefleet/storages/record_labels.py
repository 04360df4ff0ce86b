"""Read the labels of a record, whatever kind of record it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from stagefleet.errors import ContentError, NotFoundError
from stagefleet.names import Digest, Reference
from stagefleet.records import is_placeholder
from stagefleet.registry import RegistryClient
from stagefleet.storages.description import describe_image

__all__ = ["LabelledImage", "read_labels"]


@dataclass(frozen=True, slots=True)
class LabelledImage:
    """An image, as far as its labels say what it is.

    Attributes:
        digest: That of its manifest, None where that cannot be read.
        labels: Of its configuration; none where that cannot be read.
    """

    digest: Digest | None
    labels: Mapping[str, str]


def read_labels(client: RegistryClient, reference: Reference) -> LabelledImage | None:
    """Read an image's labels; None where there is no image, or a placeholder instead.

    Raises:
        RegistryError: The registry fails, or does not let it be read.
    """
    digest = None
    try:
        manifest = client.fetch_manifest(reference)
        if is_placeholder(manifest.annotations):
            return None
        digest = manifest.digest
        if manifest.config is None:
            return LabelledImage(digest, {})
        try:
            config = client.fetch_blob(reference.repository, manifest.config)
        except NotFoundError:
            return LabelledImage(digest, {})
        return LabelledImage(digest, describe_image(reference, manifest, config).labels)
    except NotFoundError:
        return None
    except ContentError:
        return LabelledImage(digest, {})
