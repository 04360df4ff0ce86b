"""A list of tags is whole, whatever habits a registry has, or it is an error."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field
from itertools import count, islice
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import assume, given, settings, strategies as st

from stagefleet.errors import NotFoundError, RegistryError
from stagefleet.names import Repository
from stagefleet.registry import tag_list
from stagefleet.registry.tag_list import Page, PagingHabits, TagList, TagPage
from tests.unit.registry.scripted import RegistryResponse

REPOSITORY = Repository.parse("reg.example.com/app")
BASE = "https://reg.example.com/v2/app/tags/list"
N = 5
"""Tags a page, in place of a thousand."""


@pytest.fixture(autouse=True)
def _small_pages(monkeypatch):
    monkeypatch.setattr(tag_list, "_TAGS_A_PAGE", N)
    monkeypatch.setattr(tag_list, "_MORE_TAGS_A_PAGE", (10 * N, 1000))


@dataclass
class Registry:
    """A registry with habits.

    Attributes:
        tags: In its own order.
        knows_n: Whether it gives no more than asked for.
        knows_last: Whether it goes on behind a tag.
        maximum: The most that it gives at once.
        links: Whether it names the next page.
        overlap: How many tags each further page repeats.
        blanks: How many empty pages it puts before each further one, with a `Link` each.
        refuses: What it answers to `last`, or to a large `n`.
    """

    tags: list[str]
    knows_n: bool = True
    knows_last: bool = True
    maximum: int = 10_000
    links: bool = False
    overlap: int = 0
    blanks: int = 0
    refuses: dict[str, int] = field(default_factory=dict)
    asked: list[dict[str, str]] = field(default_factory=list)

    def __call__(self, url, stop_at):
        query = {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}
        self.asked.append(query)
        if "last" in query and "last" in self.refuses:
            raise error(self.refuses["last"])
        if int(query.get("n", 0)) > self.refuses.get("above", 10**9):
            raise error(400)
        blank = int(query.get("blank", 0))
        start = self.tags.index(query["last"]) + 1 if "last" in query and self.knows_last else 0
        size = min(int(query.get("n", 10**9)) if self.knows_n else 10**9, self.maximum)
        if blank < self.blanks and start:
            return page([], f"{BASE}?n={query.get('n', 1)}&last={query['last']}&blank={blank + 1}")
        tags = self.tags[max(0, start - self.overlap) : start + size]
        rest = len(self.tags) > start + size
        following = f"{BASE}?n={query.get('n', 1)}&last={tags[-1]}" if self.links and rest else None
        return page(tags[:1] if stop_at and tags[:1] == [stop_at] else tags, following)


def error(status):
    kind = NotFoundError if status == 404 else RegistryError
    return kind(f"answered {status}", method="GET", status=status)


def page(tags, following=None):
    read = TagPage()
    read.feed(json.dumps({"tags": tags}).encode())
    read.close()
    return Page(read, following)


def some(number):
    return [f"tag{index:04}" for index in range(number)]


def listed(registry, habits=None):
    return list(TagList(REPOSITORY, BASE, registry, habits or PagingHabits()))


@given(
    number=st.sampled_from([0, 1, N - 1, N, N + 1, 2 * N, 2 * N + 1, 10 * N, 60]),
    order=st.sampled_from(["sorted", "backwards", "shuffled"]),
    knows_n=st.booleans(),
    knows_last=st.booleans(),
    maximum=st.sampled_from([1, 2, N - 1, N, N + 2, 10_000]),
    links=st.booleans(),
    overlap=st.integers(0, 3),
    blanks=st.integers(0, 2),
    refuses=st.sampled_from([{}, {"last": 400}, {"last": 404}, {"above": N - 1}, {"above": N}]),
)
@settings(max_examples=150, deadline=None)
def test_a_list_is_whole_or_an_error(
    number, order, knows_n, knows_last, maximum, links, overlap, blanks, refuses
):
    """x6, R27, kind 3: no combination of habits makes a short list, or a tag twice."""
    tags = some(number)
    if order == "backwards":
        tags.reverse()
    if order == "shuffled":
        random.Random(number).shuffle(tags)
    if links:
        knows_last = True  # or its own links would lead nowhere
        refuses = {name: value for name, value in refuses.items() if name != "last"}
    goes_on = knows_last and "last" not in refuses
    # Who has a maximum of its own, and neither names nor gives a next page, can be found out only where
    # the maximum is just what was asked for.
    assume(links or goes_on or maximum >= number or (maximum == N and knows_n and "above" not in refuses))
    registry = Registry(tags, knows_n, knows_last, maximum, links, overlap, blanks if links else 0, refuses)
    assume(overlap < maximum)

    try:
        found = listed(registry)
    except RegistryError:
        assert not links
        assert not goes_on
        assert number >= N
        return
    assert sorted(tags) == sorted(found)


def test_a_full_page_without_a_link_is_not_the_end():
    """x6, R27: a proxy strips the header, or the registry has none: the list goes on behind the last tag."""
    registry = Registry(some(2 * N + 1))

    assert some(2 * N + 1) == listed(registry)
    assert [None, "tag0004", "tag0009", "tag0010"] == [asked.get("last") for asked in registry.asked]


def test_a_short_page_without_a_link_is_not_the_end():
    """Kind 3, x6: a registry may have a maximum of its own, smaller than what was asked for."""
    assert some(9) == listed(Registry(some(9), maximum=2))


def test_a_registry_that_names_next_pages_is_believed_where_it_names_none():
    """Kind 3: who links pages says by leaving the link out that this was the last: no request more."""
    registry = Registry(some(2 * N), links=True)

    assert some(2 * N) == listed(registry)
    assert 2 == len(registry.asked)


def test_a_registry_that_gives_all_at_once_is_asked_for_more_once_a_repository():
    """x6: distribution 2.8 ignores `n` and `last`: its list is not read twice, nor always asked for twice."""
    registry, habits = Registry(some(60), knows_n=False, knows_last=False), PagingHabits()
    first_entries = []

    def fetch(url, stop_at):
        answer = registry(url, stop_at)
        first_entries.append(answer.tags.entries)
        return answer

    for _ in range(3):
        assert some(60) == listed(fetch, habits)
    assert [60, 1, 60, 60] == first_entries
    assert habits.is_unpaged(REPOSITORY)
    assert not habits.is_unpaged(Repository.parse("reg.example.com/other"))


def test_a_registry_that_gives_more_than_asked_for_and_not_all_is_gone_on_with():
    """x6: a page that is longer than asked for is no proof that it is all."""
    registry, habits = Registry(some(60), knows_n=False, maximum=2 * N), PagingHabits()

    assert some(60) == listed(registry, habits)
    assert not habits.is_unpaged(REPOSITORY)


def test_exactly_as_many_tags_as_asked_for_from_a_registry_that_knows_no_pages():
    """x6: distribution 2.8 with a thousand tags gives a thousand for `n=1`, too: that is all of them."""
    registry = Registry(some(N), knows_n=False, knows_last=False)

    assert some(N) == listed(registry)
    assert "1" == registry.asked[-1]["n"]


def test_a_registry_that_only_knows_n_is_asked_for_longer_pages():
    """x6: where `last` means nothing, a longer page brings the rest."""
    registry = Registry(some(8 * N), knows_last=False)

    assert some(8 * N) == listed(registry)
    assert [N, N, 1, 10 * N] == [int(asked["n"]) for asked in registry.asked]


def test_a_short_page_of_a_registry_that_knows_neither_last_nor_links_is_taken_for_all():
    """x6: nothing tells its own maximum from the end: by the specification fewer than asked for are all."""
    assert some(N - 2) == listed(Registry(some(2 * N), knows_last=False, maximum=N - 2))


@pytest.mark.parametrize("refuses", [{}, {"above": N}])
def test_a_list_that_cannot_be_had_whole_is_an_error(refuses):
    """x6: a maximum of its own, no next page by any way: rather nothing than the first page."""
    registry = Registry(some(3 * N), knows_last=False, maximum=N, refuses=refuses)

    with pytest.raises(RegistryError, match=r"cannot be listed whole.*no Link header"):
        listed(registry)


@given(
    number=st.integers(1, 3 * N),
    changes=st.lists(st.tuples(st.integers(0, 3 * N), st.integers(0, 3)), max_size=12),
    knows_n=st.booleans(),
    knows_last=st.booleans(),
    maximum=st.sampled_from([N, 10_000]),
    links=st.booleans(),
)
@settings(max_examples=300, deadline=None)
def test_tags_that_come_and_go_meanwhile_neither_hide_others_nor_fail_the_list(
    number, changes, knows_n, knows_last, maximum, links
):
    """W12: what others delete and push while a list is read changes its pages; what stays is listed."""
    links = links and knows_last
    assume(knows_last or maximum > N or knows_n)  # as above
    tags = [f"tag{index:04}" for index in range(0, 2 * number, 2)]
    registry = Registry(tags, knows_n, knows_last, maximum, links)
    stay = set(tags)

    def fetch(url, stop_at):
        query = parse_qs(urlsplit(url).query)
        last = query.get("last", [""])[0]
        gone = last and last not in registry.tags
        if gone:  # a registry goes on behind where it was
            registry.tags = sorted([*registry.tags, last])
        answer = registry(url, stop_at)
        if gone:
            registry.tags.remove(last)
        if changes:
            place, kind = changes.pop()
            tag = f"tag{2 * place + kind % 2:04}"
            if kind < 2:
                registry.tags = [other for other in registry.tags if other != tag]
                stay.discard(tag)
            else:
                registry.tags = sorted({*registry.tags, tag})
        return answer

    try:
        found = listed(fetch)
    except RegistryError:
        assert not knows_last
        return
    assert stay <= set(found)
    assert len(found) == len(set(found))


@pytest.mark.parametrize("moves", [[["b", "c"], ["a", "b", "c"], ["b", "c"]], [["a"], ["b"], ["a"]]])
def test_a_list_of_all_tags_that_changes_while_it_is_read_has_an_end(moves):
    """W12: distribution 2.8 ignores `last`; a tag that comes back meanwhile makes its list no circle."""
    pages = iter([*moves, *moves, *moves])

    assert sorted({tag for move in moves for tag in move}) == sorted(listed(lambda *_: page(next(pages))))


def test_a_maximum_is_noticed_though_a_tag_comes_meanwhile():
    """Kind 3: one new tag on a page that starts over is no sign that the registry knows `last`."""
    registry = Registry(some(3 * N), knows_last=False, maximum=N)

    def fetch(url, stop_at):
        answer = registry(url, stop_at)
        registry.tags = [*registry.tags[:2], "tag0001a", *registry.tags[2:]]
        return answer

    with pytest.raises(RegistryError, match=r"cannot be listed whole"):
        listed(fetch)


def test_a_page_that_repeats_what_is_known_is_not_counted_twice():
    """Kind 3: pages that overlap, or come again, give each tag once."""
    registry = Registry(some(12), links=True, overlap=2)

    assert some(12) == listed(registry)


def test_links_that_bring_nothing_new_have_an_end():
    """Kind 3: a registry that names a new page for ever, and always gives the same, is refused."""
    urls = count()
    with pytest.raises(RegistryError, match="in circles"):
        listed(lambda *_: page(["a", "b"], f"{BASE}?page={next(urls)}"))
    with pytest.raises(RegistryError, match="in circles"):
        listed(lambda *_: page([], f"{BASE}?page={next(urls)}"))
    assert next(urls) < 200


def test_an_empty_page_that_names_another_is_not_the_end():
    """Kind 3: the link counts, not that the page is empty."""
    assert some(7) == listed(Registry(some(7), links=True, blanks=2))
    pages = iter([page([], f"{BASE}?x=1"), page(["a"], f"{BASE}?x=2"), page([])])
    assert ["a"] == listed(lambda *_: next(pages))


def test_a_page_that_is_gone_is_no_repository_that_is_gone():
    """Kind 3: a 404 for the second page must not read as "no such repository", which is an empty list."""
    pages = iter([page(["a"], f"{BASE}?x=1")])

    def fetch(*_):
        for found in pages:
            return found
        raise error(404)

    with pytest.raises(RegistryError, match="a page is gone") as caught:
        listed(fetch)
    assert not isinstance(caught.value, NotFoundError)
    with pytest.raises(NotFoundError):
        listed(fetch)


def test_a_failure_to_say_what_comes_next_fails_the_list():
    """Kind 3: only a registry that refuses `last` is taken not to know it, none that fails."""
    with pytest.raises(RegistryError, match="answered 503"):
        listed(Registry(some(3), refuses={"last": 503}))
    assert some(3) == listed(Registry(some(3), refuses={"last": 400}))


def test_more_tags_than_are_listed_are_an_error(monkeypatch):
    """R26: a repository without end is given up, and says why."""
    monkeypatch.setattr(tag_list, "MOST_TAGS", 100)
    numbers = count()

    def fetch(url, _):
        return page([f"tag{next(numbers):09}" for _ in range(N)], f"{BASE}?after={next(numbers)}")

    with pytest.raises(RegistryError, match="more than 100,"):
        listed(fetch)
    monkeypatch.setattr(tag_list, "_MOST_BYTES", 1000)
    with pytest.raises(RegistryError, match="more than 1,000 bytes"):
        listed(fetch)


def test_a_page_is_asked_for_when_its_first_tag_is_due():
    """R26: who wants ten tags does not make the registry list a million."""
    registry = Registry(some(100), links=True)

    assert some(10) == list(islice(TagList(REPOSITORY, BASE, registry, PagingHabits()), 10))
    assert 2 == len(registry.asked)


def test_tags_are_listed_whole_over_http(serve, client, repository_at, monkeypatch):
    """x6: the same with real requests: names are quoted, entries that are no tags are passed over."""
    tags = [*some(7), "not a tag", "z_last"]

    def script(asked):
        query = {name: values[0] for name, values in parse_qs(urlsplit(asked.path).query).items()}
        start = tags.index(query["last"]) + 1 if "last" in query else 0
        return RegistryResponse(
            body=json.dumps({"tags": tags[start : start + min(int(query["n"]), 2)]}).encode()
        )

    server = serve(script)

    assert [*some(7), "z_last"] == list(client.tags(repository_at(server)))
    assert "/v2/group/app/tags/list?n=5&last=not%20a%20tag" in [asked.path for asked in server.asked]


def test_a_list_that_gives_all_again_is_read_to_its_first_entry_alone(serve, client, repository_at):
    """x6: what distribution 2.8 sends again for `last` is not read, let alone parsed."""
    body = json.dumps({"name": "group/app", "tags": some(60)}).encode()
    sent = []

    def script(asked):
        sent.append(asked.path)
        return RegistryResponse(body=body)

    repository = repository_at(serve(script))

    assert some(60) == list(client.tags(repository))
    assert some(60) == list(client.tags(repository))
    assert 3 == len(sent)


def test_a_list_that_breaks_off_is_asked_for_again(serve, client, repository_at):
    """x6: half a page is none, however much of it came."""
    cuts = [30]

    def script(asked):
        tags = [] if "last=" in asked.path else ["one", "two", "three"]
        body = json.dumps({"tags": tags}).encode()
        return RegistryResponse(body=body, cut_at=cuts.pop() if cuts else None)

    assert ["one", "two", "three"] == list(client.tags(repository_at(serve(script))))


def test_a_link_that_hides_another_target_is_not_followed(serve, client, repository_at):
    """R49: `url="..."` in a `Link` does not lead elsewhere."""
    other = serve(lambda _: RegistryResponse(body=b'{"tags": ["stolen"]}'))

    def script(asked):
        if "last=" in asked.path:
            return RegistryResponse(body=b'{"tags": ["two"]}')
        link = f'</v2/group/app/tags/list?last=one>; url="http://{other.host}/"; rel="next"'
        return RegistryResponse(body=b'{"tags": ["one"]}', headers={"Link": link})

    assert ["one", "two"] == list(client.tags(repository_at(serve(script))))
    assert [] == other.asked
