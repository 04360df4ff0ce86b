"""index.json, read and rewritten entry by entry."""

from __future__ import annotations

import io
import json
import os
import tracemalloc

import pytest
from hypothesis import given, strategies as st

from stagefleet.oci_layout import index as index_module
from stagefleet.oci_layout.files import DirectoryFiles
from stagefleet.oci_layout.index import IndexEntry, IndexReader, write_index
from tests.unit.oci_layout.conftest import REF_NAME

DIGEST = "sha256:" + "a" * 64


def opened(folder, text):
    (folder / "index.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    return DirectoryFiles(folder).open("index.json")


def rewritten(folder, text, keep=lambda _: True, added=()):
    target = io.BytesIO()
    write_index(opened(folder, text), target, keep, added)
    return target.getvalue().decode()


@pytest.mark.parametrize(
    ("annotations", "tag"),
    [
        ({REF_NAME: "v1"}, "v1"),
        ({REF_NAME: "registry.test:5000/app:v1"}, "v1"),
        ({REF_NAME: "registry.test/app:v1@" + DIGEST}, "v1"),
        ({REF_NAME: "registry.test/app@" + DIGEST}, None),
        ({REF_NAME: "app@" + DIGEST}, None),
        ({REF_NAME: "localhost:5000/app"}, None),
        ({REF_NAME: "linux/amd64", "io.containerd.image.name": "docker.io/library/app:v2"}, "v2"),
        ({"io.containerd.image.name": "docker.io/library/app:v2"}, "v2"),
        ({REF_NAME: ""}, None),
        ({REF_NAME: 7}, None),
        ({}, None),
        ("v1", None),
        (None, None),
    ],
)
def test_a_tag_is_read_as_each_tool_writes_it(annotations, tag):
    assert tag == IndexEntry("", {"digest": DIGEST, "annotations": annotations}).tag


@pytest.mark.parametrize("document", [7, "x", None, [], {"digest": "blake3:00"}, {"digest": DIGEST}])
def test_an_entry_that_cannot_be_read_has_no_descriptor(document):
    assert IndexEntry("", document).descriptor is None


def test_the_text_around_the_entries_and_of_each_stays_as_it_is(tmp_path):
    text = '\n{ "a" : [1, {"x": "\\ud800"}],\n "manifests" : [ {"n" :1.0} , {"n":2,"é":null} ], "z": {} }\n'
    assert rewritten(tmp_path, text) == (
        '\n{ "a" : [1, {"x": "\\ud800"}],\n "manifests" : [{"n" :1.0},{"n":2,"é":null}], "z": {} }\n'
    )


def test_entries_are_left_out_and_added(tmp_path):
    text = '{"manifests":[{"n":1},{"n":2},{"n":3}]}'
    keep = lambda entry: entry.document["n"] != 2  # noqa: E731
    assert rewritten(tmp_path, text, keep, ['{"n":4}']) == '{"manifests":[{"n":1},{"n":3},{"n":4}]}'
    assert rewritten(tmp_path, text, lambda _: False) == '{"manifests":[]}'


def test_an_empty_list_may_be_null_as_go_writes_it(tmp_path):
    text = '{"schemaVersion":2,"manifests":null,"annotations":null}'
    assert [] == list(IndexReader(opened(tmp_path, text)))
    assert json.loads(rewritten(tmp_path, text, added=['{"n":1}'])) == {
        "schemaVersion": 2,
        "manifests": [{"n": 1}],
        "annotations": None,
    }


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "null",
        "{",
        "{}",
        '{"manifests":[]',
        '{"manifests":[}',
        '{"manifests":[{]}',
        '{"manifests":[{}{}]}',
        '{"manifests":[{},]}',
        '{"manifests":{}}',
        '{"manifests":[]}{}',
        '{"manifests":[],"manifests":[]}',
        '{"manifests":[' + "[" * 100_000,
        '{"x":' + '{"x":' * 100_000,
        b'{"manifests":["\xff"]}',
        '{"manifests":[' + "9" * 10_000 + "]}",
    ],
)
def test_what_is_no_index_is_refused(tmp_path, text):
    with pytest.raises(ValueError, match=r"it |its |codec"):
        list(IndexReader(opened(tmp_path, text)))


@pytest.mark.parametrize("text", ['{"x":"%s","manifests":[]}', '{"manifests":[{"x":"%s"}]}', "{%s"])
def test_what_is_no_list_has_a_bound(tmp_path, text):
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="too"):
            list(IndexReader(opened(tmp_path, text % (" " * 64 * 1024 * 1024))))
        assert tracemalloc.get_traced_memory()[1] < 2**28
    finally:
        tracemalloc.stop()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(
    before=st.dictionaries(st.text(max_size=3), JSON, max_size=3),
    entries=st.lists(JSON, max_size=6),
    after=st.dictionaries(st.text(min_size=10, max_size=12), JSON, max_size=3),
    indent=st.sampled_from([None, 0, 3]),
    is_ascii=st.booleans(),
    chunk=st.integers(1, 40),
)
def test_any_index_is_read_in_any_chunks(tmp_path_factory, before, entries, after, indent, is_ascii, chunk):
    folder = tmp_path_factory.mktemp("index")
    document = {**before, "manifests": entries, **after}
    text = json.dumps(document, indent=indent, ensure_ascii=is_ascii)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index_module, "_CHUNK_CHARACTERS", chunk)
        content = text.encode(errors="surrogatepass")
        try:
            content.decode()
        except UnicodeDecodeError:
            return
        found = list(IndexReader(opened(folder, content)))
        assert [entry.document for entry in found] == entries
        assert json.loads(rewritten(folder, content)) == document


def test_a_million_entries_are_read_in_bounded_memory(tmp_path):
    count = 1_000_000 if os.environ.get("HYPOTHESIS_PROFILE") == "faults" else 20_000
    with (tmp_path / "index.json").open("w") as file:
        file.write('{"schemaVersion":2,"manifests":[')
        for number in range(count):
            mark = "," if number else ""
            file.write(
                f'{mark}{{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:{number:064x}",'
                f'"size":1000,"annotations":{{"{REF_NAME}":"{number:056x}-1700000000000"}}}}'
            )
        file.write("]}")
    tracemalloc.start()
    try:
        file = DirectoryFiles(tmp_path).open("index.json")
        assert file is not None
        reader = IndexReader(file)
        assert count == sum(entry.tag is not None for entry in reader)
        assert tracemalloc.get_traced_memory()[1] < 4 * 1024 * 1024
    finally:
        tracemalloc.stop()
