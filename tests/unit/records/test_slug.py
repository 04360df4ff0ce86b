from __future__ import annotations

import hashlib
import json

import pytest
from hypothesis import given, strategies as st

from stagefleet.names import is_tag
from stagefleet.records.ids import limited_slug, murmur_hash, spelling, tag_slug


@pytest.mark.parametrize(
    ("text", "limit", "slug"),
    [
        ("", 42, ""),
        ("A", 42, "a-54dcf7ce"),
        ("a", 42, "a"),
        ("x" * 42, 42, "x" * 42),
        ("x" * 43, 42, "x" * 33 + "-27e2f02f"),
        ("日本", 42, "c4d9f942"),
        ("php_fpm_exporter-monitoring-dev-encrypt-1", 48, "php-fpm-exporter-monitoring-dev-encrypt--83286e5"),
        ("php-fpm-exporter-monitoring-dev-encrypt--83286e5", 48, None),
        ("a--b", 42, "a--b"),
    ],
)
def test_known_names_have_their_known_slugs(text, limit, slug):
    assert (text if slug is None else slug) == limited_slug(text, limit)


@pytest.mark.parametrize(
    ("text", "slug"), [("-data", "data-a871d86e"), ("da/ta", "da-ta-afa96f8"), ("V1.0_x", "V1.0_x"), ("", "")]
)
def test_a_name_that_can_be_no_tag_becomes_one(text, slug):
    assert slug == tag_slug(text)


@pytest.mark.parametrize("text", ["a---b", "a--b--c", "-a", "a-", "--"])
def test_other_doubled_and_outer_dashes_make_no_slug(text):
    assert limited_slug(text, 42).endswith(murmur_hash(text))


@pytest.mark.parametrize(
    ("text", "slug"),
    [
        ("Ёлка", "yolka"),
        ("Straße", "strabe"),
        ("Ⓑ²", "b2"),
        ("℀~ﬀ\uff3fx", "ac-x"),
        ("Щи ъ", "shchi"),
        ("a日-日b", "a-b"),
    ],
)
def test_characters_are_spelled_by_the_table(text, slug):
    assert f"{slug}-{murmur_hash(text)}" == limited_slug(text, 48)


def test_the_table_is_the_one_that_records_were_written_with():
    """A respelling in a new anyascii would look for other tags than those that are there."""
    table = hashlib.sha256(json.dumps(spelling(), sort_keys=True).encode()).hexdigest()
    assert "8af0338ecada09a9ee2efa0b976bd819addd99eccf3f0eafea38cd60f5de23a3" == table


@given(st.text(max_size=60), st.integers(20, 64))
def test_a_slug_is_short_ascii_and_its_own_slug(text, limit):
    slug = limited_slug(text, limit)
    assert len(slug) <= limit
    assert slug.isascii()
    assert slug == limited_slug(slug, limit)
    assert not slug.startswith("-")


@given(st.text(min_size=1, max_size=60))
def test_the_slug_of_a_tag_is_a_tag(text):
    assert is_tag(tag_slug(text))


@given(st.text(st.characters(categories=["Cs"]), min_size=1))
def test_undecodable_names_have_slugs_too(text):
    assert murmur_hash(text) == limited_slug(text, 48)
