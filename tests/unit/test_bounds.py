"""Text and JSON of strangers, cut to a size."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given, settings, strategies as st

from stagefleet.bounds import TRUNCATED, clean, cut, fit, json_bytes
from stagefleet.images import ImageInfo, StageDescription
from stagefleet.names import StageId
from tests.unit.test_stages import HEX56

STAGE = StageId(HEX56)
DOCUMENTS = st.dictionaries(
    st.text(max_size=20).map(clean),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=8).map(lambda text: clean(text) * 200),
        lambda inner: st.lists(inner, max_size=20) | st.dictionaries(st.text(max_size=20).map(clean), inner),
        max_leaves=15,
    ),
)


@settings(max_examples=40)
@given(DOCUMENTS, st.integers(min_value=64, max_value=8192))
@example({TRUNCATED: [None, "0" * 200]}, 64)
def test_a_document_fits_after_it_was_cut_and_says_that_it_was(document, limit):
    """R18: whatever is in it."""
    fitted = fit(document, limit)
    assert json_bytes(fitted) <= limit
    if json_bytes(document) <= limit:
        assert document == fitted
    else:
        assert fitted[TRUNCATED] is True


@given(st.text(alphabet=st.characters(min_codepoint=0xD000, max_codepoint=0xE100)), st.integers(3, 40))
def test_text_that_was_cut_encodes_and_fits(text, limit):
    """R11: half a surrogate pair can be in any string of a stranger."""
    assert len(cut(text, limit).encode()) <= limit


def test_what_an_object_says_of_itself_comes_first_then_the_build_tools_own_labels():
    """R18: a description that was cut still says which stage it is of, and what the build tool needs."""
    labels = {f"junk-{n}": "x" * 100 for n in range(50_000)} | {"werf": "app", "werf.io/base": "y" * 5000}
    document = {
        "labels": labels,
        "env": ["PATH=/bin", "A=" + "b" * 100_000],
        "size": 7,
        "image_id": "sha256:1",
    }
    fitted = fit(document, 8192)
    assert (7, "sha256:1", "app") == (fitted["size"], fitted["image_id"], fitted["labels"]["werf"])
    assert "werf.io/base" in fitted["labels"]
    assert "PATH=/bin" == fitted["env"][0]
    assert list(document) == [key for key in fitted if key != TRUNCATED]


@pytest.fixture
def info():
    name = "a.example/app"
    return ImageInfo(
        name=f"{name}:tag",
        repository=name,
        tag="tag",
        repo_digest=f"{name}@sha256:1",
        image_id="sha256:2",
        size=9,
    )


def test_a_description_that_is_small_stays_as_it_is(info):
    assert info is info.bounded()


def test_a_description_that_is_large_stays_usable(info):
    """R18: names, digests and sizes stay; `truncated` says that more was there."""
    large = info.model_copy(
        update={"labels": {"a": "b" * 10_000_000, "werf": "app"}, "env": ("c",) * 100_000}
    )
    described = StageDescription.model_validate({"stage_id": STAGE, "info": large}).bounded()
    shown = described.as_json()
    assert len(json.dumps(shown)) <= 16 * 1024
    assert True is shown["truncated"]
    assert "app" == shown["labels"]["werf"]
    for key in ("name", "repo_digest", "image_id", "size"):
        assert StageDescription(stage_id=STAGE, info=info).as_json()[key] == shown[key]
    assert "truncated" not in StageDescription(stage_id=STAGE, info=info).as_json()


def test_the_members_of_a_large_index_are_cut_before_they_are_left_out(info):
    """R18: ten members with many labels each are still ten members."""
    member = info.model_copy(update={"labels": {f"label-{n}": "x" * 50 for n in range(200)}})
    bounded = info.model_copy(update={"members": (member,) * 10}).bounded()
    assert 10 == len(bounded.members)
    assert all(one.truncated for one in bounded.members)
    assert len(bounded.model_dump_json(exclude_defaults=True)) <= 16 * 1024
