"""Complete tag lists of repositories: a missing tag costs stages and, by shared digests, other people's tags.

OCI distribution specification 1.1, "Listing Tags": a registry may return fewer tags than requested, and a
`Link` to the next page if there is one. In practice some registries leave out that header and proxies strip
it; registries have a maximum of their own, ignore `n`, `last` or both (distribution 2.8), or repeat a page.
So a list is complete only if a page with a `Link` led to one without, or if one more page brings no new tag.
"""

from __future__ import annotations

import json
import re
import threading
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import NoReturn
from urllib.parse import quote

from stagefleet.errors import NotFoundError, RegistryError
from stagefleet.names import Repository, is_tag

_MAX_DEPTH = 64
_MAX_STRING_BYTES = 64 * 1024
_TAGS_BYTES_AT_ONCE = 64 * 1024

# Possessive, as the text is untrusted; behind single characters alone (Python before 3.11.5, cpython#106052).
_TOKEN = re.compile(
    rb'[ \t\r\n]*+(?:("[^"\\\x00-\x1f]*+(?:\\.[^"\\\x00-\x1f]*+)*")|([\[\]{}:,])|([-+.0-9A-Za-z]++))',
    re.DOTALL,
)
_RUN = re.compile(rb'(?:[ \t\r\n]*+"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}+"[ \t\r\n]*+,)+')
_QUOTED = re.compile(rb'"([^"]++)"')
_OPENED_BY = {b"]": b"[", b"}": b"{"}


class MalformedPageError(ValueError):
    """The response is no page of a tag list; the message says why."""


class TagPage:
    """The tags of one page, `{"name": "...", "tags": ["...", ...]}`; parses the body in chunks.

    It takes about the memory of its tags. `size` are the bytes read, `entries` those of any type; `first` can
    be a tag, `last` is any string.
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
        while start < len(self._tags):  # some thousand at once: a page may have a million
            end = self._tags.find(b"\n", start + _TAGS_BYTES_AT_ONCE) + 1 or len(self._tags)
            yield from self._tags[start:end].decode().splitlines()
            start = end

    def feed(self, piece: bytes) -> None:
        """Parse the next chunk of the body; raise `MalformedPageError` if it is no JSON, or no tag list."""
        self.size += len(piece)
        self._read(self._rest + piece if self._rest else piece, is_last=False)

    def close(self) -> None:
        """Finish parsing at the end of the body, or raise `MalformedPageError` if it is no whole page."""
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
        rest = data[position:].lstrip(b" \t\r\n")
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


MOST_TAGS = 2_000_000
"""Limit for one list, twice the most items of a run: a repository has records besides stages."""
_TAGS_A_PAGE = 1000  # ECR refuses more
_MORE_TAGS_A_PAGE = (10_000, 100_000, MOST_TAGS + 1)
_MOST_PAGES = 20_000
_MOST_BYTES = 1024**3  # of all pages together; two million tags of maximum length take a quarter of it
_MOST_STALE_PAGES = 3
_MOST_EMPTY_PAGES = 100
_MOST_REPOSITORIES = 1024
_REFUSED = frozenset({400, 404, 405, 406, 416, 422, 501})
"""Statuses with which registries refuse an unknown query parameter."""


@dataclass(frozen=True, slots=True)
class Page:
    """A page of a list, incomplete if its first entry was enough, and the URL of the next one, if any."""

    tags: TagPage
    following: str | None


FetchPage = Callable[[str, str], Page]
"""Fetches the page at a URL; may stop after a first entry equal to the second argument, unless that is ""."""


class PagingHabits:
    """Paging behaviour of repositories, learned by this process; thread-safe and bounded."""

    def __init__(self) -> None:
        self._unpaged: dict[Repository, None] = {}
        self._lock = threading.Lock()

    def is_unpaged(self, repository: Repository) -> bool:
        """Return True if the registry returns all tags at once, whatever is requested."""
        return repository in self._unpaged

    def note_unpaged(self, repository: Repository) -> None:
        """Record that the registry returns all tags at once."""
        with self._lock:
            self._unpaged[repository] = None
            while len(self._unpaged) > _MOST_REPOSITORIES:
                self._unpaged.pop(next(iter(self._unpaged)))


class TagList:
    """List the tags of one repository once, lazily: a page is requested when its first tag is.

    `base` is the URL of the list, without parameters.
    """

    def __init__(self, repository: Repository, base: str, fetch: FetchPage, habits: PagingHabits) -> None:
        self._repository = repository
        self._base = base
        self._fetch = fetch
        self._habits = habits
        self._seen = _Seen()
        self._urls: set[str] = set()
        self._size = 0
        self._new = 0

    def __iter__(self) -> Iterator[str]:
        """Yield each tag once, in the registry's order.

        Raises:
            NotFoundError: The repository does not exist.
            RegistryError: The list is endless, too long or incomplete.
        """
        asked: int | None = _TAGS_A_PAGE
        try:
            page = self._get(self._url(asked))
        except RegistryError as error:
            if error.status != 400:  # noqa: PLR2004 - HTTP's number
                raise
            asked = None  # some refuse more than their own maximum
            page = self._get(self._url(asked))
        yield from self._take(page.tags)
        if page.following is not None:
            yield from self._follow(page)
        elif page.tags.entries:
            yield from self._go_on(page.tags, asked)

    def _follow(self, page: Page) -> Iterator[str]:
        """Follow the registry's own links to the end of the list."""
        stale = 0
        while page.following is not None:
            page = self._get_more(page.following)
            yield from self._take(page.tags)
            stale = 0 if self._new else stale + 1
            if stale > (_MOST_STALE_PAGES if page.tags.entries else _MOST_EMPTY_PAGES):
                self._fail("have no end: the registry's pages go in circles")

    def _go_on(self, first: TagPage, asked: int | None) -> Iterator[str]:
        """Request pages after the last tag until one brings no new tag."""
        is_longer = asked is not None and first.entries > asked
        if is_longer and self._habits.is_unpaged(self._repository):
            return
        get: Callable[[str], Page | None] = partial(
            self._get_second, stop_at=first.first if is_longer else ""
        )
        last, longest = first.last, first.entries
        while last:
            url = self._url(asked, last)
            if url in self._urls:
                break  # tags came and went meanwhile, but no page went on
            page = get(url)
            if page is None:
                break
            yield from self._take(page.tags)
            if page.following is not None:
                yield from self._follow(page)
                return
            if not self._new:
                if not _starts_over(page.tags, first):
                    return
                break
            last, longest, get = page.tags.last, max(longest, page.tags.entries), self._get_more
        else:
            return
        # The registry ignores `last`.
        if is_longer:
            self._habits.note_unpaged(self._repository)
        elif longest == asked:
            yield from self._grow(asked)

    def _grow(self, asked: int) -> Iterator[str]:
        """Request longer pages: the first one was full, and the registry returns no second."""
        if self._get_more(self._url(1)).tags.entries > 1:
            return  # it returns all at once; their number equals the requested one by chance
        entries = asked
        for longer in _MORE_TAGS_A_PAGE:
            try:
                page = self._get_more(self._url(longer))
            except RegistryError as error:
                if error.status not in _REFUSED:
                    raise
                break
            yield from self._take(page.tags)
            if page.tags.entries <= entries:
                break  # the registry's maximum
            if page.tags.entries < longer:
                return
            entries = page.tags.entries
        self._fail(
            f"cannot be listed whole: {self._repository.host} gives {entries} of them, names no next page "
            "(no Link header; does a proxy strip it?), and gives none for `last`"
        )

    def _url(self, asked: int | None, last: str = "") -> str:
        parameters = [f"n={asked}"] if asked is not None else []
        if last:
            parameters.append(f"last={quote(last, safe='')}")
        return f"{self._base}?{'&'.join(parameters)}" if parameters else self._base

    def _get_second(self, url: str, stop_at: str) -> Page | None:
        """Fetch the second page, None if the registry refuses the request."""
        try:
            return self._get(url, stop_at)
        except RegistryError as error:
            if error.status in _REFUSED:
                return None
            raise

    def _get_more(self, url: str) -> Page:
        """Fetch a further page; a 404 for it does not mean that there are no tags."""
        try:
            return self._get(url)
        except NotFoundError as error:
            raise RegistryError(
                f"the tags of {self._repository} cannot be listed whole: a page is gone ({error})",
                method="GET",
                repository=str(self._repository),
                status=error.status,
                codes=error.codes,
            ) from error

    def _get(self, url: str, stop_at: str = "") -> Page:
        if url in self._urls or len(self._urls) >= _MOST_PAGES:
            self._fail("have no end: the registry's pages go in circles")
        self._urls.add(url)
        page = self._fetch(url, stop_at)
        self._size += page.tags.size
        if self._size > _MOST_BYTES:
            self._fail(f"take more than {_MOST_BYTES:,} bytes, and so many are not read")
        return page

    def _take(self, page: TagPage) -> Iterator[str]:
        """Yield the new tags of a page."""
        self._new = 0
        for tag in page:
            if self._seen.add(tag):
                self._new += 1
                if len(self._seen) > MOST_TAGS:
                    self._fail(f"are more than {MOST_TAGS:,}, and so many are not listed")
                yield tag

    def _fail(self, what: str) -> NoReturn:
        raise RegistryError(
            f"the tags of {self._repository} {what}", method="GET", repository=str(self._repository)
        )


def _starts_over(page: TagPage, first: TagPage) -> bool:
    """Return True if a page without new tags repeats the first one, and is not the end of the list."""
    return page.entries > 0 and (page.first == first.first or page.entries >= first.entries)


class _Seen:
    """Set of the tags yielded so far: eight bytes each while they come in order, which most do."""

    def __init__(self) -> None:
        self._ordered = array("q")
        self._last = ""
        self._hashes: set[int] | None = None

    def __len__(self) -> int:
        return len(self._ordered if self._hashes is None else self._hashes)

    def add(self, tag: str) -> bool:
        """Add a tag; False if it was there already."""
        if self._hashes is None:
            if tag > self._last:
                self._last = tag
                self._ordered.append(hash(tag))
                return True
            self._hashes = set(self._ordered)
            self._ordered = array("q")
        known = len(self._hashes)
        self._hashes.add(hash(tag))
        return len(self._hashes) > known
