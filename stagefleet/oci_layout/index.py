"""The index.json of an OCI image layout, entry by entry: with a million tags it has 300 MB.

OCI image specification 1.1, "Image Layout", "index.json file". Each entry keeps its text, so that a rewrite
changes nothing of what other tools wrote.
"""

from __future__ import annotations

import io
import itertools
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from stagefleet.errors import ContentError, UnsupportedManifestError
from stagefleet.manifests import OCI_INDEX, Descriptor
from stagefleet.names import is_tag
from stagefleet.oci_layout.files import LayoutFile, LayoutFiles, file_errors

if TYPE_CHECKING:
    from _typeshed import SupportsWrite

REF_NAME = "org.opencontainers.image.ref.name"
_CONTAINERD_NAME = "io.containerd.image.name"
EMPTY_INDEX = b'{"schemaVersion":2,"mediaType":"%s","manifests":[]}' % OCI_INDEX.encode()

_CHUNK_BYTES = 1024 * 1024
_CHUNK_CHARACTERS = 64 * 1024
_MOST_CHARACTERS = 4 * 1024 * 1024
"""Longest entry, and longest content before and after the entries."""


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """An entry of index.json: its text as it stands in the file, and the same decoded, of any type."""

    text: str
    document: Any = field(repr=False)

    @property
    def tag(self) -> str | None:
        """Its tag; None without one, or with a name that is none.

        skopeo and regctl write the tag alone, as the specification advises; crane and old BuildKits write a
        whole reference, `host/path:tag`, and containerd adds one under a name of its own.
        """
        annotations = self.document.get("annotations") if isinstance(self.document, dict) else None
        if not isinstance(annotations, Mapping):
            return None
        for name in (annotations.get(REF_NAME), annotations.get(_CONTAINERD_NAME)):
            if isinstance(name, str):
                reference, at, _ = name.partition("@")
                _, colon, tag = reference.rpartition(":")
                if is_tag(tag) and (colon or not at):
                    return tag
        return None

    @property
    def descriptor(self) -> Descriptor | None:
        """Its descriptor; None if this release cannot read it, as with another digest algorithm."""
        try:
            return Descriptor.parse(self.document)
        except UnsupportedManifestError:
            return None


class IndexReader:
    """Read the entries of an index once, and the text around them.

    Attributes:
        head: The text before the first entry, once that was read.
        tail: The text behind the last entry, once all were read.
    """

    def __init__(self, file: LayoutFile) -> None:
        self._scanner = _Scanner(file)
        self.head = self.tail = ""

    def __iter__(self) -> Iterator[IndexEntry]:
        """Yield the entries; a ValueError if the file is no image index."""
        scanner = self._scanner
        scanner.take("{")
        for _ in scanner.items("}"):
            name = scanner.value()
            scanner.take(":")
            if name != "manifests":
                scanner.value()
            elif self.head:
                raise ValueError("it has two lists of manifests")
            else:
                yield from self._entries()
        scanner.take("}")
        if scanner.peek() or not self.head:
            raise ValueError("it goes on after its end" if self.head else "it has no manifests")
        self.tail += scanner.cut()

    def _entries(self) -> Iterator[IndexEntry]:
        scanner = self._scanner
        if scanner.peek() != "[":
            self.head, self.tail = f"{scanner.cut()}[", "]"
            if scanner.value() is not None:  # Go writes an empty list as null
                raise ValueError("its manifests are no list")
            scanner.cut()
            return
        scanner.take("[")
        self.head = scanner.cut()
        for _ in scanner.items("]"):
            scanner.cut()
            document = scanner.value()
            yield IndexEntry(scanner.cut().strip(), document)
        scanner.cut()
        scanner.take("]")


def index_entries(files: LayoutFiles) -> Iterator[IndexEntry]:
    """Yield the entries of a layout's index.json; `ContentError` if that is none, or missing."""
    with _opened(files) as file:
        yield from IndexReader(file)


@contextmanager
def _opened(files: LayoutFiles) -> Iterator[LayoutFile]:
    with file_errors(files.path):
        file = files.open("index.json")
        if file is None:
            raise ContentError(f"{files.path} has no index.json, so it is no whole layout: copy it again")
        with file:
            try:
                yield file
            except ValueError as error:
                raise ContentError(
                    f"{files.path}: index.json cannot be read ({error}): copy the layout again"
                ) from error


_MOST_KNOWN = 100_000  # some 60 MB
_LAST: dict[tuple[int, ...], dict[str, Descriptor]] = {}
"""The tags of the last index, by its identity: every item of a run looks for one."""


def find_tag(files: LayoutFiles, tag: str) -> Descriptor | None:
    """Return the descriptor of a tag, of several the first that can be read; errors as of `index_entries`."""
    with _opened(files) as file:
        if file.identity in _LAST:
            return _LAST[file.identity].get(tag)
        if not _mentions(file, tag.encode()):
            return None
        file.rewind()
        known: dict[str, Descriptor] = {}
        for entry in IndexReader(file):
            name, descriptor = entry.tag, entry.descriptor
            if name is not None and descriptor is not None and (name == tag or len(known) <= _MOST_KNOWN):
                known.setdefault(name, descriptor)
        if len(known) <= _MOST_KNOWN:
            _LAST.clear()
            _LAST[file.identity] = known
        return known.get(tag)


def _mentions(file: LayoutFile, text: bytes) -> bool:
    """Return True if a file has a text somewhere, at a hundredth of the cost of its entries."""
    before = b""
    while piece := file.read(_CHUNK_BYTES):
        if text in before + piece:
            return True
        before = piece[-len(text) :]
    return False


def write_index(
    source: LayoutFile,
    target: SupportsWrite[bytes],
    keep: Callable[[IndexEntry], bool],
    added: Sequence[str] = (),
) -> None:
    """Copy an index, without the entries for which `keep` returns False, and with the JSON of others.

    A ValueError if the source is no image index.
    """
    reader, separator = IndexReader(source), ""
    kept = (entry.text for entry in reader if keep(entry))
    for text in itertools.chain(kept, added):
        target.write(f"{separator or reader.head}{text}".encode())
        separator = ","
    target.write(f"{'' if separator else reader.head}{reader.tail}".encode())


_BLANKS = re.compile(r"[ \t\r\n]*+")
_DELIMITERS = frozenset(",:]} \t\r\n")


class _Scanner:
    """JSON, value by value; keeps its text from the last cut on."""

    def __init__(self, file: LayoutFile) -> None:
        self._file = io.TextIOWrapper(io.BufferedReader(file), encoding="utf-8", newline="")
        self._decode = json.JSONDecoder().raw_decode
        self._text = ""
        self._at = self._cut_at = 0

    def peek(self) -> str:
        """Return the next character that is no blank, "" at the end."""
        while True:
            blanks = _BLANKS.match(self._text, self._at)
            self._at = blanks.end() if blanks else self._at
            if self._at < len(self._text) or not self._more():
                return self._text[self._at : self._at + 1]

    def take(self, mark: str) -> None:
        """Take a punctuation mark, which has to be there."""
        if self.peek() != mark:
            raise ValueError("it is no JSON object")
        self._at += 1

    def items(self, end: str) -> Iterator[None]:
        """Yield before each item of a list or object that ends with a mark."""
        if self.peek() == end:
            return
        yield
        while self.peek() == ",":
            self.take(",")
            yield

    def value(self) -> Any:
        """Take a value of any type."""
        self.peek()
        while True:
            with suppress(ValueError, RecursionError):
                value, end = self._decode(self._text, self._at)
                if self._text[end : end + 1] in _DELIMITERS:  # "1." is read as 1, and may go on
                    self._at = end
                    return value
            if not self._more():
                raise ValueError("it is no JSON")

    def cut(self) -> str:
        """Return the text that was taken since the last cut."""
        text = self._text[self._cut_at : self._at]
        self._cut_at = self._at
        return text

    def _more(self) -> bool:
        """Read a chunk; False at the end."""
        piece = self._file.read(_CHUNK_CHARACTERS)
        self._text = self._text[self._cut_at :] + piece
        self._at -= self._cut_at
        self._cut_at = 0
        if len(self._text) > _MOST_CHARACTERS:
            raise ValueError("it has too much in one place")
        return bool(piece)
