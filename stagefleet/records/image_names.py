"""Image names in the tags of records."""

from __future__ import annotations

from stagefleet.names import is_tag
from stagefleet.records.slug import limited_slug, murmur_hash

__all__ = ["NAMELESS", "decode_name", "encode_name", "image_hash"]

NAMELESS = "__nameless__"
"""The encoded name of the image without a name."""

_LIMIT_BYTES = 128 - len("managed-image-")
_REPLACEMENTS = {" ": "__space__", "/": "__slash__", "+": "__plus__"}


def encode_name(name: str) -> str:
    """Encode an image's name for a tag; a name that cannot be a tag becomes a slug."""
    encoded = name or NAMELESS
    for character, replacement in _REPLACEMENTS.items():
        encoded = encoded.replace(character, replacement)
    return encoded if is_tag(encoded) else limited_slug(encoded, _LIMIT_BYTES)


def decode_name(encoded: str) -> str:
    """Decode an image's name; a slug stays a slug."""
    if encoded == NAMELESS:
        return ""
    name = encoded
    for character, replacement in _REPLACEMENTS.items():
        name = name.replace(replacement, character)
    return name


def image_hash(name: str) -> str:
    """Return the hash of an image's name for the tags of its metadata: of the name encoded and decoded."""
    return murmur_hash(decode_name(encode_name(name)))
