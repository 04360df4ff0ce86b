"""Labels of a record, whatever its kind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from stagefleet.errors import ContentError, NotFoundError
from stagefleet.names import Digest, Reference
from stagefleet.records import is_placeholder
from stagefleet.registry import RegistryClient
from stagefleet.storages.image_config import describe_image

__all__ = ["LabelledImage", "read_labels"]


@dataclass(frozen=True, slots=True)
class LabelledImage:
    """The digest and labels of an image.

    Attributes:
        digest: Digest of its manifest, None if that cannot be read.
        labels: Labels of its configuration; empty if that cannot be read.
    """

    digest: Digest | None
    labels: Mapping[str, str]


def read_labels(client: RegistryClient, reference: Reference) -> LabelledImage | None:
    """Read an image's labels; None if there is no image, or a placeholder.

    Raises:
        RegistryError: The registry fails, or refuses the read.
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
