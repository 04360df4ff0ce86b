"""The names of images in the tags of their records."""

from __future__ import annotations

from stagefleet.names import is_tag
from stagefleet.records.slug import limited_slug, murmur_hash

__all__ = ["NAMELESS", "decode_name", "encode_name", "image_hash"]

NAMELESS = "__nameless__"
"""Stands for the image without a name."""

_LIMIT_BYTES = 128 - len("managed-image-")
_REPLACEMENTS = {" ": "__space__", "/": "__slash__", "+": "__plus__"}


def encode_name(name: str) -> str:
    """An image's name as the tag of its record holds it; a name that cannot be a tag becomes a slug."""
    encoded = name or NAMELESS
    for character, replacement in _REPLACEMENTS.items():
        encoded = encoded.replace(character, replacement)
    return encoded if is_tag(encoded) else limited_slug(encoded, _LIMIT_BYTES)


def decode_name(encoded: str) -> str:
    """The name as it reads back; of a slug, the slug."""
    if encoded == NAMELESS:
        return ""
    name = encoded
    for character, replacement in _REPLACEMENTS.items():
        name = name.replace(replacement, character)
    return name


def image_hash(name: str) -> str:
    """The hash that stands for an image in the tags of its metadata: that of its name as it reads back."""
    return murmur_hash(decode_name(encode_name(name)))
