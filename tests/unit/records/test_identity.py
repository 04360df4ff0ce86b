from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from stagefleet.errors import InvalidNameError
from stagefleet.names import StageId, is_tag
from stagefleet.records.ids import RecordId, RecordKind, decode_name, encode_name, image_hash, murmur_hash

DIGEST = "ab" * 28
STAGE = f"{DIGEST}-1700000000000"
COMMIT = "c0" * 20


def tags(characters):
    return st.text("aBz09_", min_size=1, max_size=1).flatmap(
        lambda first: st.text("aBcz019_.-", max_size=characters - 1).map(lambda rest: first + rest)
    )


@pytest.mark.parametrize(
    ("kind", "name", "tag"),
    [
        (RecordKind.MANAGED_IMAGE, "backend", "managed-image-backend"),
        (RecordKind.MANAGED_IMAGE, "", "managed-image-__nameless__"),
        (RecordKind.MANAGED_IMAGE, "a b/c+d", "managed-image-a__space__b__slash__c__plus__d"),
        (RecordKind.MANAGED_IMAGE, "日本", "managed-image-c4d9f942"),
        (RecordKind.MANAGED_IMAGE, "-data", "managed-image-data-a871d86e"),
        (RecordKind.IMAGE_METADATA, f"2f02f_{COMMIT}_{STAGE}", f"meta-2f02f_{COMMIT}_{STAGE}"),
        (RecordKind.IMAGE_METADATA, f"0_{COMMIT}_{DIGEST}", f"meta-0_{COMMIT}_{DIGEST}"),
        (RecordKind.IMPORT_METADATA, "0f" * 32, "import-metadata-" + "0f" * 32),
        (RecordKind.CUSTOM_TAG, "v1.2", "custom-tag-meta-v1-2-" + murmur_hash("v1.2")),
        (RecordKind.CUSTOM_TAG, "latest", "custom-tag-meta-latest"),
        (
            RecordKind.CUSTOM_TAG,
            "php_fpm_exporter-monitoring-dev-encrypt-1",
            "custom-tag-meta-php-fpm-exporter-monitoring-dev-encrypt--83286e5",
        ),
        (RecordKind.REJECTED_STAGE, STAGE, f"{STAGE}-rejected"),
        (RecordKind.REJECTED_STAGE, DIGEST, f"{DIGEST}-0-rejected"),
        (RecordKind.CLIENT_ID, "a-b-1700000000000", "client-id-a-b-1700000000000"),
        (RecordKind.LAST_CLEANUP, "", "cleanup"),
        (RecordKind.LOCK_SERVER, "sync-server", "sync-server"),
    ],
)
def test_each_kind_has_its_tag_and_reads_back(kind, name, tag):
    record = RecordId.of(kind, name)
    assert tag == record.tag
    assert record == RecordId.from_tag(tag)


@pytest.mark.parametrize(
    "tag",
    [
        "latest",
        STAGE,
        "managed-image-",
        "managed-image--x",
        "meta-release",
        f"meta-0f_{COMMIT}_{STAGE}",
        f"meta-f_{COMMIT[:12]}_{STAGE}",
        f"meta-f_{COMMIT}_{STAGE}-rejected",
        f"meta-f_{COMMIT}_{STAGE}_x",
        "import-metadata-",
        "custom-tag-meta-V1",
        "custom-tag-meta-" + "x" * 49,
        "client-id-1700000000000",
        "client-id-a-007",
        f"{DIGEST}-rejected",
        "cleanup-1",
        "sync-servers",
    ],
)
def test_a_tag_that_matches_no_grammar_is_of_no_record(tag):
    assert RecordId.from_tag(tag) is None


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (RecordKind.MANAGED_IMAGE, "x" * 115),
        (RecordKind.IMAGE_METADATA, "x"),
        (RecordKind.IMPORT_METADATA, "a/b"),
        (RecordKind.IMPORT_METADATA, ""),
        (RecordKind.CUSTOM_TAG, ""),
        (RecordKind.CLIENT_ID, "me"),
        (RecordKind.REJECTED_STAGE, "v1"),
        (RecordKind.LAST_CLEANUP, "now"),
    ],
)
def test_a_name_that_no_record_can_have_is_refused(kind, name):
    with pytest.raises(InvalidNameError, match="write"):
        RecordId.of(kind, name)


@given(st.text(max_size=80))
def test_any_name_of_an_image_gives_a_tag_that_reads_back(name):
    encoded = encode_name(name)
    assert is_tag(encoded)
    record = RecordId.of(RecordKind.MANAGED_IMAGE, name)
    assert record == RecordId.from_tag(record.tag)
    assert encoded == encode_name(decode_name(encoded))


@given(st.text("abcXYZ019._ /+", min_size=1, max_size=10).map(lambda name: f"x{name}"))
def test_a_name_of_common_characters_reads_back_as_it_was(name):
    assert name == decode_name(encode_name(name))


@pytest.mark.parametrize(
    ("name", "hashed"),
    [("", "0"), ("A", "54dcf7ce"), ("日本", murmur_hash("c4d9f942")), ("a b", murmur_hash("a b"))],
)
def test_the_hash_of_an_image_is_that_of_its_name_as_it_reads_back(name, hashed):
    assert hashed == image_hash(name)


@given(
    st.integers(0, 16**56 - 1), st.integers(0, 10**16 - 1), st.integers(0, 16**40 - 1), st.text(max_size=20)
)
def test_image_metadata_of_any_image_reads_back(digest, created_ms, commit, image):
    stage_id = StageId(f"{digest:056x}", created_ms)
    record = RecordId.of(RecordKind.IMAGE_METADATA, f"{image_hash(image)}_{commit:040x}_{stage_id}")
    assert record == RecordId.from_tag(record.tag)


@given(tags(128))
def test_the_record_of_any_custom_tag_is_found_by_the_tag_and_by_its_slug(tag):
    record = RecordId.of(RecordKind.CUSTOM_TAG, tag)
    assert record == RecordId.of(RecordKind.CUSTOM_TAG, record.name) == RecordId.from_tag(record.tag)


@given(tags(60))
def test_what_a_tag_reads_as_is_written_as_that_tag(tag):
    for prefix in ("managed-image-", "meta-", "import-metadata-", "custom-tag-meta-", "client-id-", ""):
        record = RecordId.from_tag(prefix + tag)
        assert record is None or prefix + tag == record.tag
