"""The tags of a repository, whole: a list that is short costs stages, and, by shared digests, others' tags.

OCI distribution specification 1.1, "Listing Tags": a registry may give fewer tags than were asked for, and a
`Link` to the next page if there is one. In the wild that header is left out by some and stripped by proxies,
registries have a maximum of their own, ignore `n`, `last` or both (distribution 2.8), or give a page twice.
So a list is whole only if the registry said so, by a `Link` on the page before and none on this one, or if
one more page brings nothing.
"""

from __future__ import annotations

import threading
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NoReturn
from urllib.parse import quote

from stagefleet.errors import NotFoundError, RegistryError
from stagefleet.names import Repository
from stagefleet.registry.tag_page import TagPage

__all__ = ["MOST_TAGS", "Habits", "Page", "TagList"]

MOST_TAGS = 2_000_000
"""Twice as many as a run may have items: besides the stages there are records."""
_TAGS_A_PAGE = 1000  # more than that, ECR refuses
_MORE_TAGS_A_PAGE = (10_000, 100_000, MOST_TAGS + 1)
_MOST_PAGES = 20_000
_MOST_BYTES = 1024**3  # of all pages together; two million tags of the longest are a quarter of that
_MOST_STALE_PAGES = 3
_MOST_EMPTY_PAGES = 100
_MOST_REPOSITORIES = 1024
_REFUSED = frozenset({400, 404, 405, 406, 416, 422, 501})
"""What a registry may answer to a parameter that it does not know."""


@dataclass(frozen=True, slots=True)
class Page:
    """A page of a list.

    Attributes:
        tags: What it has; not all of it where its first entry told enough.
        following: The URL of the next page, None if the registry names none.
    """

    tags: TagPage
    following: str | None


FetchPage = Callable[[str, str], Page]
"""Gives the page at a URL; may stop at its first entry if that is the second argument, unless that is ""."""


class Habits:
    """What was learnt of repositories while this process lasts; thread-safe, bounded."""

    def __init__(self) -> None:
        self._unpaged: dict[Repository, None] = {}
        self._lock = threading.Lock()

    def is_unpaged(self, repository: Repository) -> bool:
        """Say whether its registry gives all tags at once, whatever is asked for."""
        return repository in self._unpaged

    def note_unpaged(self, repository: Repository) -> None:
        """Keep in mind that it does."""
        with self._lock:
            self._unpaged[repository] = None
            while len(self._unpaged) > _MOST_REPOSITORIES:
                self._unpaged.pop(next(iter(self._unpaged)))


class TagList:
    """Lists the tags of one repository once, lazily: a page is asked for when its first tag is.

    Args:
        repository: Whose.
        base: The URL of the list, without parameters.
        fetch: Gives pages.
        habits: What is known of repositories.
    """

    def __init__(self, repository: Repository, base: str, fetch: FetchPage, habits: Habits) -> None:
        self._repository = repository
        self._base = base
        self._fetch = fetch
        self._habits = habits
        self._seen = _Seen()
        self._urls: set[str] = set()
        self._size = 0
        self._new = 0

    def __iter__(self) -> Iterator[str]:
        """Give each tag once, in the registry's order.

        Raises:
            NotFoundError: The repository does not exist.
            RegistryError: The list has no end, is too long, or cannot be had whole.
        """
        asked: int | None = _TAGS_A_PAGE
        try:
            page = self._get(self._url(asked))
        except RegistryError as error:
            if error.status != 400:  # noqa: PLR2004 - HTTP's number
                raise
            asked = None  # some refuse more than their own maximum
            page = self._get(self._url(asked))
        first = page.tags
        yield from self._take(first)
        if page.following is not None:
            yield from self._follow(page)
        elif first.entries:
            yield from self._go_on(first, asked)

    # A registry that names the next page

    def _follow(self, page: Page) -> Iterator[str]:
        """Follow the registry's own links: it says itself where the list ends."""
        stale = 0
        while page.following is not None:
            page = self._get_more(page.following)
            yield from self._take(page.tags)
            stale = 0 if self._new else stale + 1
            if stale > (_MOST_STALE_PAGES if page.tags.entries else _MOST_EMPTY_PAGES):
                self._fail("have no end: the registry's pages go in circles")

    # A registry that names none

    def _go_on(self, first: TagPage, asked: int | None) -> Iterator[str]:
        """Ask for what comes after the last tag, until that brings nothing."""
        is_longer = asked is not None and first.entries > asked
        if not first.last or (is_longer and self._habits.is_unpaged(self._repository)):
            return
        page = self._get_second(self._url(asked, first.last), first.first if is_longer else "")
        if page is not None:
            yield from self._take(page.tags)
            if self._new or page.following is not None:
                yield from self._go_on_from(page, asked)
                return
            if not _starts_over(page.tags, first):
                return
        # The registry does not know `last`.
        if is_longer:
            self._habits.note_unpaged(self._repository)
        elif first.entries == asked:
            yield from self._grow(asked)

    def _go_on_from(self, page: Page, asked: int | None) -> Iterator[str]:
        while page.following is None:
            page = self._get_more(self._url(asked, page.tags.last))
            yield from self._take(page.tags)
            if not self._new and page.following is None:
                return
        yield from self._follow(page)

    def _grow(self, asked: int) -> Iterator[str]:
        """Get a list whose first page was full, from a registry that gives no second: by longer pages."""
        if self._get_more(self._url(1)).tags.entries > 1:
            return  # it gives all at once; that these are as many as were asked for is chance
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
                break  # its own maximum
            if page.tags.entries < longer:
                return
            entries = page.tags.entries
        self._fail(
            f"cannot be listed whole: {self._repository.host} gives {entries} of them, names no next page "
            "(no Link header; does a proxy strip it?), and gives none for `last`"
        )

    # Pages

    def _url(self, asked: int | None, last: str = "") -> str:
        parameters = [f"n={asked}"] if asked is not None else []
        if last:
            parameters.append(f"last={quote(last, safe='')}")
        return f"{self._base}?{'&'.join(parameters)}" if parameters else self._base

    def _get_second(self, url: str, stop_at: str) -> Page | None:
        """Get what comes after the first page, None where the registry refuses to say."""
        try:
            return self._get(url, stop_at)
        except RegistryError as error:
            if error.status in _REFUSED:
                return None
            raise

    def _get_more(self, url: str) -> Page:
        """Get a further page; that it is gone does not mean that there are no tags."""
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
        """Give the tags of a page that are new."""
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
    """Say whether a page that brought nothing is the first one again, and not the end of the list."""
    return page.entries > 0 and (page.first == first.first or page.entries >= first.entries)


class _Seen:
    """The tags that were given: eight bytes each while they come in order, as they mostly do."""

    def __init__(self) -> None:
        self._ordered = array("q")
        self._last = ""
        self._hashes: set[int] | None = None

    def __len__(self) -> int:
        return len(self._ordered if self._hashes is None else self._hashes)

    def add(self, tag: str) -> bool:
        """Note a tag; False if it was here already."""
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
