"""A page of tags is read piece by piece, as JSON is, and holds no more than its tags."""

from __future__ import annotations

import json
import tracemalloc

import pytest
from hypothesis import given, strategies as st

from stagefleet.names import is_tag
from stagefleet.registry.http.responses import next_link
from stagefleet.registry.tag_list import MalformedPageError, TagPage

NAMES = st.text(alphabet='ab.-_1"\\/é\n', max_size=5)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | NAMES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=8,
)


def read(body, size=None):
    page = TagPage()
    for start in range(0, len(body), size or len(body) or 1):
        page.feed(body[start : start + (size or len(body))])
    page.close()
    return page


@given(
    before=st.dictionaries(NAMES, VALUES, max_size=2),
    tags=st.lists(NAMES | VALUES, max_size=8),
    after=st.dictionaries(NAMES, VALUES, max_size=2),
    indent=st.sampled_from([None, 0, 3]),
    ascii_only=st.booleans(),
    size=st.integers(1, 40),
)
def test_any_document_is_read_as_the_json_module_reads_it(before, tags, after, indent, ascii_only, size):
    """x6: whatever stands around the list, and wherever the body is cut into pieces."""
    document = {**before, "tags": tags, **after}
    body = json.dumps(document, indent=indent, ensure_ascii=ascii_only).encode()

    page = read(body, size)

    expected = [tag for tag in json.loads(body)["tags"] if isinstance(tag, str) and is_tag(tag)]
    assert expected == list(page)
    assert len(tags) == page.entries
    assert (expected or [""])[0] == page.first
    assert next((tag for tag in reversed(tags) if isinstance(tag, str)), "") == page.last


@given(st.binary(max_size=60) | st.text(alphabet='{}[]":,tagsname\\ 1e', max_size=40).map(str.encode))
def test_what_is_no_page_is_refused_and_nothing_else_happens(body):
    """R30: any bytes at all are a page, or one kind of error."""
    try:
        page = read(body)
    except MalformedPageError:
        return
    assert page.entries >= len(list(page))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"7",
        b"null",
        b"<html>",
        b"{}",
        b'{"errors": [{"code": "DENIED"}]}',
        b'{"tags": 7}',
        b'{"tags": {}}',
        b'{"tags": "one"}',
        b'{"tags": ["one"]',
        b'{"tags": ["one"',
        b'{"tags": ["one]}',
        b'{"tags": ["one"]}}',
        b'{"tags": ["one"]} x',
        b'{"tags": ["one"}]',
        b'{"tags": [' + b"[" * 100_000,
        b'{"tags": ["' + b"x" * 1_000_000,
    ],
)
def test_half_a_list_is_none(body):
    """x6, R30: a body that is cut, or says nothing of tags, is never a short list."""
    for size in (1, 1000) if len(body) < 1000 else (1000,):
        with pytest.raises(MalformedPageError):
            read(body, size)


@pytest.mark.parametrize("body", [b'{"tags": null}', b'{"tags": []}', b'{"name": "app"}', b' {"tags":[ ]}\n'])
def test_no_tags_are_an_empty_page(body):
    """x6: some registries write null for an empty list, or leave it out."""
    page = read(body)

    assert (0, []) == (page.entries, list(page))


def test_a_page_takes_little_more_than_its_tags():
    """R26: a page of hundreds of thousands of tags is not kept as objects."""
    tags = [f"{number:056x}-1700000000000" for number in range(100_000)]
    body = json.dumps({"tags": tags}).encode()
    tracemalloc.start()
    try:
        page = read(body, 64 * 1024)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert 100_000 == page.entries
    assert peak < 1.5 * len(body)


@pytest.mark.parametrize(
    ("header", "target"),
    [
        ('</v2/app/tags/list?last=a&n=1>; rel="next"', "/v2/app/tags/list?last=a&n=1"),
        ("</next>; rel=next", "/next"),
        ("</next>;rel=NEXT", "/next"),
        ('</next> ; REL = "prev next"', "/next"),
        ('</prev>; rel="prev", </next>; rel="next"', "/next"),
        ('</a,b;c>; title="x, y; rel=prev"; rel="next"', "/a,b;c"),
        ('</next>; rel="next"; url="http://elsewhere/"', "/next"),
        ('</next>; url="http://elsewhere/"; rel="next"', "/next"),
        ('</next>; rel="prev"; rel="next"', None),
        ('</next>; rel="nextish"', None),
        ("</next>", None),
        ("/next; rel=next", None),
        ("", None),
        ("<", None),
        ("</next>; rel", None),
    ],
)
def test_the_next_page_is_the_links_target_alone(header, target):
    """R49: no parameter of a `Link`, such as `url`, stands for its target."""
    assert target == next_link(header)


@given(st.text(alphabet='<>;,="\\ relnxturl/', max_size=60))
def test_any_link_header_is_read_in_peace(header):
    """R30: what cannot be read is passed over."""
    target = next_link(header)
    assert target is None or f"<{target}>" in header
