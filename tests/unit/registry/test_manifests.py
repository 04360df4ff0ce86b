import json

import pytest
from hypothesis import given, strategies as st

from stagefleet.errors import UnsupportedManifestError
from stagefleet.manifests import DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST, Manifest, digest_of

DIGEST = "sha256:" + "a" * 64


def descriptor(**more):
    return {"mediaType": "application/x", "digest": DIGEST, "size": 3, **more}


def manifest(**more):
    return {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": descriptor(),
        "layers": [descriptor()],
        **more,
    }


def test_a_manifest_keeps_its_bytes_and_their_digest():
    raw = json.dumps(manifest(), indent=7).encode()

    parsed = Manifest.parse(raw, OCI_MANIFEST)

    assert raw == parsed.raw
    assert digest_of(raw) == parsed.digest
    assert [3] == [layer.size for layer in parsed.layers]
    assert not parsed.is_index


def test_the_document_names_the_kind_before_the_header_does():
    raw = json.dumps(manifest(mediaType=OCI_MANIFEST)).encode()

    assert OCI_MANIFEST == Manifest.parse(raw, f"{DOCKER_MANIFEST}; charset=utf-8").media_type


def test_the_header_names_the_kind_of_what_has_both_shapes():
    raw = json.dumps({**manifest(), "mediaType": "", "manifests": []}).encode()

    assert DOCKER_MANIFEST == Manifest.parse(raw, f"{DOCKER_MANIFEST}; charset=utf-8").media_type


def test_an_oci_document_without_a_media_type_is_known_by_what_it_holds():
    index = {"schemaVersion": 2, "manifests": [descriptor()]}

    assert OCI_INDEX == Manifest.parse(json.dumps(index).encode()).media_type


@pytest.mark.parametrize(
    ("document", "words"),
    [
        (
            {"schemaVersion": 1, "mediaType": "application/vnd.docker.distribution.manifest.v1+json"},
            "manifest.v1",
        ),
        ({"schemaVersion": 1, "fsLayers": []}, "schema version 1"),
        (manifest(mediaType="application/vnd.example+json"), "application/vnd.example"),
        (manifest(config=None), "no config"),
        (manifest(layers=[descriptor(size=-1)]), "without a size"),
        (manifest(layers=[descriptor(size=True)]), "without a size"),
        (manifest(layers=[descriptor(digest="sha256:xyz")]), "malformed descriptor"),
        (manifest(layers=[descriptor(urls="http://x")]), "malformed urls"),
        (manifest(layers="many"), "no list"),
        (manifest(layers=[7]), "no object"),
        ([], "no JSON object"),
    ],
)
def test_what_is_no_manifest_is_refused_by_name(document, words):
    with pytest.raises(UnsupportedManifestError, match=words):
        Manifest.parse(json.dumps(document).encode())


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_hostile_bytes_are_refused_with_the_typed_error(raw):
    with pytest.raises(UnsupportedManifestError):
        Manifest.parse(raw, OCI_MANIFEST)


def test_nesting_without_end_is_refused():
    with pytest.raises(UnsupportedManifestError):
        Manifest.parse(b"[" * 200_000)
