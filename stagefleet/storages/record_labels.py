"""Read the labels of a record, whatever kind of record it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from stagefleet.errors import ContentError, NotFoundError
from stagefleet.names import Digest, Reference
from stagefleet.registry import RegistryClient
from stagefleet.storages.description import describe_image

__all__ = ["LabelledImage", "read_labels"]


@dataclass(frozen=True, slots=True)
class LabelledImage:
    """An image, as far as its labels say what it is.

    Attributes:
        digest: That of its manifest.
        labels: Of its configuration.
    """

    digest: Digest
    labels: Mapping[str, str]


def read_labels(client: RegistryClient, reference: Reference) -> LabelledImage | None:
    """Read an image's labels; None where there is no image, or none that can be read.

    Raises:
        RegistryError: The registry fails, or does not let it be read.
    """
    try:
        manifest = client.fetch_manifest(reference)
        if manifest.config is None or manifest.is_index:
            return None
        config = client.fetch_blob(reference.repository, manifest.config)
        return LabelledImage(manifest.digest, describe_image(reference, manifest, config).labels)
    except (NotFoundError, ContentError):
        return None
