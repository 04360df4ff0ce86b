"""Descriptions: immutable values, shown as the command line promises."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, strategies as st
from pydantic import ValidationError

from stagefleet.images import ImageInfo, StageDescription
from stagefleet.names import StageId

HEX56 = "0123456789abcdef" * 3 + "01234567"
STAGE = StageId(HEX56, 1_700_000_000_000)


def make_info(**fields: Any) -> ImageInfo:
    return ImageInfo(
        **{
            "name": f"localhost/app:{STAGE}",
            "repository": "localhost/app",
            "tag": str(STAGE),
            "repo_digest": "localhost/app@sha256:" + "0" * 64,
            "image_id": "sha256:" + "1" * 64,
            **fields,
        }
    )


texts = st.text(max_size=20)
infos = st.builds(
    make_info,
    parent_id=texts,
    labels=st.dictionaries(texts, texts, max_size=3),
    env=st.lists(texts, max_size=3).map(tuple),
    on_build=st.lists(texts, max_size=2).map(tuple),
    volumes=st.lists(texts, max_size=2).map(tuple),
    size=st.integers(0, 2**60),
    created_at=st.none() | st.datetimes(timezones=st.just(UTC)),
    members=st.just(()) | st.just((make_info(size=1), make_info(size=2))),
)


def test_a_description_shows_what_the_command_line_promises():
    info = make_info(
        parent_id="sha256:2",
        labels={"werf": "app"},
        env=("A=1",),
        size=7,
        created_at=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
    )

    assert {
        "stage_id": str(STAGE),
        "digest": HEX56,
        "created_ms": 1_700_000_000_000,
        "name": f"localhost/app:{STAGE}",
        "repo_digest": info.repo_digest,
        "image_id": info.image_id,
        "parent_id": "sha256:2",
        "labels": {"werf": "app"},
        "env": ["A=1"],
        "size": 7,
        "created_at": "2026-01-02T03:04:05+00:00",
    } == StageDescription(stage_id=STAGE, info=info).as_json()


def test_a_multi_platform_stage_has_no_time():
    shown = StageDescription(stage_id=StageId(HEX56), info=make_info()).as_json()

    assert (HEX56, None, None) == (shown["stage_id"], shown["created_ms"], shown["created_at"])


@given(infos)
def test_a_description_comes_back_from_json_as_it_was(info: ImageInfo):
    description = StageDescription(stage_id=STAGE, info=info)

    assert description == StageDescription.model_validate_json(description.model_dump_json())


def test_what_is_shown_can_be_changed_without_harm():
    description = StageDescription(stage_id=STAGE, info=make_info(labels={"a": "b"}, env=("A=1",)))
    shown = description.as_json()
    shown["labels"]["c"] = "d"
    shown["env"].append("B=2")

    assert ({"a": "b"}, ("A=1",)) == (description.info.labels, description.info.env)


def test_it_is_immutable_and_takes_no_foreign_field():
    info = make_info()
    with pytest.raises(ValidationError):
        info.size = 1
    with pytest.raises(ValidationError):
        make_info(colour="blue")
