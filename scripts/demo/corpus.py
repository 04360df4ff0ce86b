"""A set of stages, and what became of it elsewhere; looked at with plain requests, not with Stagefleet's."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from tests.services import ImageMaker, archive_of, stage_id_of
from tests.services.images import digest_of

__all__ = ["CUSTOM_TAG", "STAGES", "Corpus", "differences"]

STAGES = 80
"""Stages of one platform; enough that a worker can be killed while some are under way."""
CUSTOM_TAG = "v1.0"
_SHARED_LAYERS = 3
_SHARED_BYTES = 300_000
_OWN_BYTES = 150_000  # what is in three repositories has to fit in the 64 MB that containers have as /dev/shm
_FIRST_MS = 1_764_000_000_000


@dataclass(slots=True)
class Corpus:
    """Stages in a repository.

    Attributes:
        path: The repository's path in its registry.
        digests: The manifest's digest of each stage, by its id.
        layers: The digests of each stage's layers, by its id; of one for two platforms those of both.
        tagged_digest: That of the stage that has the custom tag too.
    """

    path: str
    digests: dict[str, str] = field(default_factory=dict)
    layers: dict[str, set[str]] = field(default_factory=dict)
    tagged_digest: str = ""

    def push(self, maker: ImageMaker) -> None:
        """Build the stages: shared layers, a layer of its own for each, one stage for two platforms."""
        draw = random.Random(7)  # noqa: S311 - the same data each time
        shared = [_draw_layer(draw, _SHARED_BYTES) for _ in range(_SHARED_LAYERS)]
        pushed = [
            maker.push_image(
                self.path,
                stage_id_of(f"stage {number}", _FIRST_MS + number),
                layers=[*shared, _draw_layer(draw, _OWN_BYTES)],
                labels={"step": str(number)},
            )
            for number in range(STAGES)
        ]
        members = [
            maker.push_image(
                self.path,
                None,
                layers=[*shared, _draw_layer(draw, _OWN_BYTES)],
                oci=True,
                platform={"os": "linux", "architecture": architecture},
            )
            for architecture in ("amd64", "arm64")
        ]
        self.layers = {str(stage.tag): set(stage.layers) for stage in pushed}
        index = maker.push_index(self.path, stage_id_of("for two platforms", None), members)
        self.layers[str(index.tag)] = {layer for member in members for layer in member.layers}
        pushed.append(index)
        self.digests = {str(stage.tag): stage.digest for stage in pushed}
        first = min(pushed, key=lambda stage: str(stage.tag))
        maker.push_tag(first, CUSTOM_TAG)
        self.tagged_digest = first.digest

    def forget(self, stage_ids: Iterable[str]) -> None:
        """Expect these stages no more."""
        for stage_id in stage_ids:
            del self.digests[stage_id]


def _draw_layer(draw: random.Random, size_bytes: int) -> bytes:
    """A layer that a container engine can unpack, with content that does not compress."""
    return archive_of({"content": draw.randbytes(size_bytes)})


def differences(maker: ImageMaker, path: str, expected: Mapping[str, str]) -> list[str]:
    """How a repository differs from what it should hold, down to the bytes of every layer; [] if it does not.

    Args:
        maker: Reads from the registry.
        path: The repository's path.
        expected: The digest of every tag.
    """
    tags = set(maker.tags(path))
    found = [f"{tag} is missing" for tag in sorted(expected.keys() - tags)]
    found += [f"{tag} should not be there" for tag in sorted(tags - expected.keys())]
    seen: set[str] = set()
    for tag in sorted(tags & expected.keys()):
        manifest = maker.manifest(path, tag)
        if manifest is None or digest_of(manifest) != expected[tag]:
            found.append(f"{tag} has another digest")
        else:
            found += [f"{tag}: {problem}" for problem in _missing_content(maker, path, manifest, seen)]
    return found


def _missing_content(maker: ImageMaker, path: str, manifest: bytes, seen: set[str]) -> Iterator[str]:
    document = json.loads(manifest)
    for member in document.get("manifests", ()):
        content = maker.manifest(path, member["digest"])
        if content is None or digest_of(content) != member["digest"]:
            yield f"its member {member['digest']} is not whole"
        else:
            yield from _missing_content(maker, path, content, seen)
    blobs = [document["config"], *document["layers"]] if "layers" in document else []
    for digest in (blob["digest"] for blob in blobs if blob["digest"] not in seen):
        content = maker.blob(path, digest)
        if content is None or digest_of(content) != digest:
            yield f"{digest} is not whole"
        else:
            seen.add(digest)
