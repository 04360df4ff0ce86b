"""Sizes of text and JSON: limits for what comes from outside, and compression for Redis.

What is kept can be encoded as UTF-8 and has a maximum size.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

MAX_ITEMS = 1_000_000
"""Most items of a run."""
OUTCOME_BYTES = 16 * 1024
"""The maximum size of one outcome, or of one entry of the description cache, as JSON."""
TRUNCATED = "truncated"
"""The key that marks, with the value true, an object that was shortened."""

_STRING_BYTES = 1024  # of one string in an object that is shortened
_ELLIPSIS = "\u2026"
_OWN_LABELS = ("werf", "io.stagefleet.")
_SURROGATE = re.compile("[\ud800-\udfff]")
_NO_ROOM: Any = object()


def join_first(names: Sequence[str], most: int) -> str:
    """Join the first names with commas, and say how many more there are."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def clean(text: str) -> str:
    r"""Replace what UTF-8 cannot encode: JSON can hold half of a surrogate pair (RFC 8259, section 8.2).

    >>> clean("a" + chr(0xD800))
    'a\ufffd'
    """
    return text if text.isascii() else _SURROGATE.sub("\ufffd", text)


def cut(text: str, limit_bytes: int) -> str:
    """Shorten text to a number of UTF-8 bytes, with an ellipsis at the end; `clean` the text first."""
    encoded = clean(text).encode()
    if len(encoded) <= limit_bytes:
        return clean(text)
    return encoded[: limit_bytes - len(_ELLIPSIS.encode())].decode(errors="ignore") + _ELLIPSIS


def json_bytes(value: Any) -> int:
    """Count the bytes of a value as JSON."""
    return len(json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode())


def fit(document: Mapping[str, Any], limit_bytes: int) -> dict[str, Any]:
    """Shorten a JSON object of `clean` strings and mark it with `TRUNCATED`; return a small one unchanged.

    Strings and numbers at the top level come first, since they identify the object. Its lists and objects
    share the rest; of an object's entries, those of the build tool come first, then the small ones.
    """
    fitted = _fit_object(document, limit_bytes)
    if fitted is not None:
        return fitted
    plain = {key: value for key, value in document.items() if not _is_container(value)}
    return {**_fit_entries(plain, limit_bytes - json_bytes({TRUNCATED: True})), TRUNCATED: True}


def _fit_object(document: Mapping[str, Any], left: int) -> dict[str, Any] | None:
    """Shorten an object but keep all its strings and numbers; return None if there is no room for them."""
    if json_bytes(document) <= left:
        return dict(document)
    kept: dict[str, Any] = {
        key: _cut_string(value) for key, value in document.items() if not _is_container(value)
    }
    kept[TRUNCATED] = True
    left -= json_bytes(kept)
    if left < 0:
        return None
    containers = sorted(
        (json_bytes(value), key)
        for key, value in document.items()
        if _is_container(value) and key != TRUNCATED  # ours says that it was cut
    )
    for number, (_, key) in enumerate(containers):
        overhead = json_bytes(key) + len(":,")
        fitted = _fit_container(document[key], left // (len(containers) - number) - overhead)
        if fitted:
            kept[key] = fitted
            left -= json_bytes(fitted) + overhead
    return {key: kept[key] for key in (*document, TRUNCATED) if key in kept}


def _fit_container(value: Any, left: int) -> Any:
    if json_bytes(value) <= left:
        return value
    left -= len("[]")
    return _fit_entries(value, left) if isinstance(value, Mapping) else _fit_list(value, left)


def _fit_entries(entries: Mapping[str, Any], left: int) -> dict[str, Any]:
    """Keep an object's entries in their order while there is room."""
    chosen: dict[str, Any] = {}
    for key in sorted(entries, key=lambda key: (not _is_own(key), _size(key, entries[key]))):
        value = _fit_value(entries[key], left)
        if value is not _NO_ROOM and (size := json_bytes({key: value})) <= left:
            chosen[key] = value
            left -= size
        elif not _is_own(key):
            break  # the entries after this one are no smaller
    return {key: chosen[key] for key in entries if key in chosen}


def _is_own(key: str) -> bool:
    return key.startswith(_OWN_LABELS)


def _size(key: str, value: Any) -> int:
    """Estimate the bytes of an entry, quickly: there may be a million entries."""
    return len(key) + (len(value) if isinstance(value, str) else json_bytes(value)) + len('"":"",')


def _fit_list(values: Sequence[Any], left: int) -> list[Any]:
    """Keep the first values of a list while there is room; its objects share the room."""
    kept = []
    for number, whole in enumerate(values):
        share = left // (len(values) - number) if isinstance(whole, Mapping) else left
        value = _fit_value(whole, share - len(","))
        if value is _NO_ROOM:  # at least its own strings and numbers
            plain = {key: one for key, one in whole.items() if not _is_container(one)}
            value = _fit_value({**plain, TRUNCATED: True}, left)
        if value is _NO_ROOM or (size := json_bytes(value) + len(",")) > left:
            break
        kept.append(value)
        left -= size
    return kept


def _fit_value(value: Any, left: int) -> Any:
    """Shorten a value inside a list or object; return `_NO_ROOM` if nothing of it fits."""
    if isinstance(value, Mapping):
        fitted = _fit_object(value, left)
        return _NO_ROOM if fitted is None else fitted
    return _fit_container(value, left) if _is_container(value) else _cut_string(value)


def _is_container(value: Any) -> bool:
    return isinstance(value, Mapping | list | tuple)


def _cut_string(value: Any) -> Any:
    return cut(value, _STRING_BYTES) if isinstance(value, str) else value


# Compression of the JSON that Redis holds by the million.
#
# Descriptions are about a kilobyte of JSON each, with similar keys and labels. A preset dictionary reduces
# them to less than half.

_COMPRESSED_FROM_BYTES = 200
_LEVEL = 6
# Text common to descriptions and outcomes, the most frequent last (RFC 1950, section 2.2, FDICT).
_DICTIONARY = (
    b'"error":{"type":"RegistryUnavailableError","message":"'
    b'"labels":{"org.opencontainers.image.":"werf.io/base-image-id":"werf-stage-content-digest":"werf-version":"'
    b'"werf":"project","werf.io/parent-stage-id":"werf-project-repo-commit":"'
    b'"env":["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],"size":'
    b'{"item":"","state":"succeeded","result":{"stage_id":"","digest":"","created_ms":17,"name":"",'
    b'"repo_digest":"@sha256:","image_id":"sha256:","parent_id":"sha256:","labels":{},"env":[],"size":,'
    b'"created_at":"2026-T00:00:00+00:00"},"seconds":0.,"bytes":,"attempts":1}'
)


def compress_json(document: bytes) -> bytes:
    """Compress a JSON object, if that makes it smaller."""
    if len(document) < _COMPRESSED_FROM_BYTES:
        return document
    packer = zlib.compressobj(_LEVEL, zdict=_DICTIONARY)
    return packer.compress(document) + packer.flush()


def decompress_json(data: bytes) -> bytes:
    """Restore a JSON object that `compress_json` returned; a ValueError for other data."""
    if data.startswith(b"{"):
        return data
    unpacker = zlib.decompressobj(zdict=_DICTIONARY)
    try:
        return unpacker.decompress(data) + unpacker.flush()
    except zlib.error as error:
        raise ValueError(str(error)) from error
