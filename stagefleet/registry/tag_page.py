"""Streaming parser of a tag list page: a million tags are 75 MB of JSON, and much more as objects.

OCI distribution specification 1.1, "Listing Tags": `{"name": "...", "tags": ["...", ...]}`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from stagefleet.names import is_tag

_MAX_DEPTH = 64
_MAX_STRING_BYTES = 64 * 1024

# Possessive quantifiers: the text is untrusted, so no pattern may backtrack. They
# follow single characters alone: after a group, Python before 3.11.5 matches wrongly (python/cpython#106052).
_TOKEN = re.compile(
    rb'[ \t\r\n]*+(?:("[^"\\\x00-\x1f]*+(?:\\.[^"\\\x00-\x1f]*+)*")|([\[\]{}:,])|([-+.0-9A-Za-z]++))',
    re.DOTALL,
)
_SPACE = re.compile(rb"[ \t\r\n]*+")
_RUN = re.compile(rb'(?:[ \t\r\n]*+"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}+"[ \t\r\n]*+,)+')
_QUOTED = re.compile(rb'"([^"]++)"')
_OPENED_BY = {b"]": b"[", b"}": b"{"}


class MalformedPageError(ValueError):
    """The response is no page of a tag list; the message says why."""


class TagPage:
    """The tags of one page; parses the body in chunks, in about the memory of its tags.

    Attributes:
        size: Number of bytes read.
        entries: Number of entries in the list, of any type.
        first: The first entry that can be a tag, "" if there is none.
        last: The last entry that is a string, "" if there is none.
    """

    def __init__(self) -> None:
        self.size = 0
        self.entries = 0
        self.first = ""
        self.last = ""
        self._tags = bytearray()
        self._rest = b""
        self._open: list[bytes] = []
        self._is_over = False
        self._string: str | None = None
        self._key = ""
        self._names: set[str] = set()
        self._in_tags = False

    def __iter__(self) -> Iterator[str]:
        """Yield the tags in the page's order; invalid tags are left out."""
        start = 0
        while (end := self._tags.find(b"\n", start)) >= 0:
            yield self._tags[start:end].decode()
            start = end + 1

    def feed(self, piece: bytes) -> None:
        """Parse the next chunk of the body.

        Raises:
            MalformedPageError: It is no JSON, or no tag list.
        """
        self.size += len(piece)
        self._read(self._rest + piece if self._rest else piece, is_last=False)

    def close(self) -> None:
        """Finish parsing at the end of the body.

        Raises:
            MalformedPageError: The body is no complete JSON object, or has neither `tags` nor `name`.
        """
        self._read(self._rest, is_last=True)
        if not self._is_over:
            raise MalformedPageError("it is no JSON object")
        if not self._names & {"tags", "name"}:  # some leave out `tags` if there are none
            raise MalformedPageError("it has no tags")

    def _read(self, data: bytes, *, is_last: bool) -> None:
        position = 0
        while True:
            if self._in_tags and len(self._open) == 2:  # noqa: PLR2004 - the object and the list in it
                run = _RUN.match(data, position)
                if run is not None:
                    self._take_run(run[0])
                    position = run.end()
            token = _TOKEN.match(data, position)
            if token is None or (token[3] and token.end() == len(data) and not is_last):
                break  # an incomplete token: it may continue in the next chunk
            self._take(token)
            position = token.end()
        blank = _SPACE.match(data, position)
        rest = data[position if blank is None else blank.end() :]
        if rest and (is_last or rest[:1] not in b'"-+.0123456789abcdefghijklmnopqrstuvwxyz'):
            raise MalformedPageError("it is no JSON")
        if len(rest) > _MAX_STRING_BYTES:
            raise MalformedPageError("it has a string that is too long")
        self._rest = rest

    def _take_run(self, run: bytes) -> None:
        """Add entries that are plain tags, each with its trailing comma."""
        tags = _QUOTED.findall(run)
        self._tags += b"\n".join(tags) + b"\n"
        self.entries += len(tags)
        self.first = self.first or tags[0].decode()
        self.last = tags[-1].decode()
        self._string = None

    def _take(self, token: re.Match[bytes]) -> None:
        quoted, mark, word = token.groups()
        if self._is_over or (not self._open and mark != b"{"):
            raise MalformedPageError("it is no JSON object")
        if quoted is not None:
            self._take_string(quoted)
        elif word is not None:
            self._take_value(is_null=word == b"null")
        elif mark in b"[{":
            self._take_value(is_list=mark == b"[")
            self._open.append(mark)
            if len(self._open) > _MAX_DEPTH:
                raise MalformedPageError("it is nested too deep")
        elif mark in b"]}":
            self._close(mark)
        elif mark == b":" and len(self._open) == 1:
            self._key = self._string or ""
            self._names.add(self._key if self._key in {"tags", "name"} else "")

    def _take_string(self, quoted: bytes) -> None:
        try:
            text = json.loads(quoted)
        except ValueError:
            raise MalformedPageError("it has a string that is none") from None
        if len(self._open) == 1:
            if self._key:
                self._take_value()
            else:
                self._string = text
        elif self._in_tags and len(self._open) == 2:  # noqa: PLR2004 - the object and the list in it
            self.entries += 1
            self.last = text
            if is_tag(text):
                self._tags += text.encode() + b"\n"
                self.first = self.first or text

    def _take_value(self, *, is_list: bool = False, is_null: bool = False) -> None:
        """Handle the start of a value that is no string, or any value of the outer object."""
        depth = len(self._open)
        if depth == 1:
            key, self._key, self._string = self._key, "", None
            if key == "tags":
                if not (is_list or is_null):
                    raise MalformedPageError("its tags are no list")
                self._in_tags = is_list
        elif self._in_tags and depth == 2:  # noqa: PLR2004 - the object and the list in it
            self.entries += 1

    def _close(self, mark: bytes) -> None:
        if self._open.pop() != _OPENED_BY[mark]:
            raise MalformedPageError("it is no JSON")
        if len(self._open) == 1:
            self._in_tags = False
        self._is_over = not self._open
