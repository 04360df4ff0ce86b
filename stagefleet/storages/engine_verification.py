"""Verification of images in an engine, by their export (Docker Engine API 1.41, "Export an image")."""

from __future__ import annotations

import tarfile
from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from typing import Any

from stagefleet.engine import Engine, Heed, call_under_lease
from stagefleet.errors import EngineError, UnreadableContentError
from stagefleet.layers import diff_id_of
from stagefleet.leases import Lease, current_lease
from stagefleet.storages.verification import Fault, Look, VerificationResult


def verify_images(
    engine: Engine, image_ids: Iterable[str], lease: Lease, *, shallow: bool
) -> VerificationResult:
    """Export images, and compute the diff id of each layer; with `shallow` only ask for the images.

    Raises:
        EngineError: The engine cannot export one whole; tells its words.
    """
    result = VerificationResult()
    for image_id in image_ids:
        named = (engine.find(image_id) or {}).get("RootFS", {}).get("Layers") or []
        result.manifests += 1
        result.blobs += len(named)
        if shallow:
            continue
        found, read_bytes = call_under_lease(partial(_export, engine, image_id), current_lease(lease))
        result.read_bytes += read_bytes
        for diff_id in named:
            if diff_id not in found:
                result.note(Look(Fault.ALTERED), f"the layer {diff_id} of {image_id}")
    return result


class _HeedingStream:
    """The archive as it arrives; the caller may leave before each read. `bytes` counts what was read."""

    def __init__(self, raw: Any, heed: Heed) -> None:
        self.bytes = 0
        self._raw = raw
        self._heed = heed

    def read(self, size: int) -> bytes:
        self._heed()
        piece: bytes = self._raw.read(size)
        self.bytes += len(piece)
        return piece


def _export(engine: Engine, name: str, heed: Heed) -> tuple[set[str], int]:
    """Read the archive of an image through memory; return the diff ids of all files in it, and its bytes.

    The layers are among them: unpacked, under a name of the engine's version, or as the blobs of an OCI
    layout, which may be compressed. What cannot be unpacked is none.
    """
    found: set[str] = set()
    with engine.export(name) as raw:
        stream = _HeedingStream(raw, heed)
        try:
            with tarfile.open(fileobj=stream, mode="r|") as archive:  # type: ignore[call-overload]  # `read` is enough
                for file in (archive.extractfile(entry) for entry in archive if entry.isfile()):
                    with suppress(UnreadableContentError):
                        found |= {str(diff_id_of(file, 0))} if file is not None else set()
        except tarfile.TarError as error:
            raise EngineError(
                f"{name}: the engine at {engine.address} broke off its export: {error}"
            ) from error
    return found, stream.bytes
