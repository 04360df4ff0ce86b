"""Layouts in tar files, which are read where they lie."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import subprocess
import tarfile
import tracemalloc

import pytest

from stagefleet.errors import BrokenStageError, ContentError, UsageError
from stagefleet.manifests import digest_of
from stagefleet.oci_layout import files
from stagefleet.oci_layout.layout import OciLayout
from tests.unit.oci_layout.conftest import image

VERSION = b'{"imageLayoutVersion":"1.0.0"}'
INDEX = b'{"manifests":[]}'


@pytest.fixture
def stage(layout):
    return image().write(layout, "v1")


@pytest.fixture
def archive(tmp_path):
    return tmp_path / "layout.tar"


def member(name, content=b"", **more):
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for key, value in more.items():
        setattr(info, key, value)
    return info, content


def packed(path, *members, **options):
    with tarfile.open(path, "w", **options) as target:
        for info, content in members:
            target.addfile(info, io.BytesIO(content))
    return OciLayout(path)


@pytest.mark.parametrize("options", [["."], ["oci-layout", "index.json", "blobs"], ["--format=posix", "."]])
def test_a_stage_is_read_out_of_a_tar_file(stage, path, archive, options):
    subprocess.run(["tar", "-cf", archive, "-C", path, *options], check=True)
    layout = OciLayout(archive)
    layout.check()
    assert ["v1"] == list(layout.tags())
    assert stage.manifest == layout.fetch_manifest(layout.resolve("v1").digest)
    for descriptor, content in stage.blobs.items():
        assert layout.has_blob(descriptor)
        with layout.open_blob(descriptor) as blob:
            assert content == b"".join(iter(lambda: blob.read(3), b""))


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_names_that_need_a_header_of_their_own(archive, kind):
    digest = digest_of(b"content", "sha512")
    name = f"blobs/sha512/{digest.hex}"
    members = [member("oci-layout", VERSION), member("index.json", INDEX)]
    try:
        layout = packed(archive, *members, member(name, b"content"), format=kind)
    except ValueError:
        assert kind == tarfile.USTAR_FORMAT  # which has no room for it
        return
    file = files.TarFiles(archive).open(name)
    assert file is not None
    with file:
        assert b"content" == file.read()
    assert [] == list(layout.tags())


def test_several_parts_are_read_at_once(stage, path, archive):
    subprocess.run(["tar", "-cf", archive, "-C", path, "."], check=True)
    layout = OciLayout(archive)
    one, two = (layout.open_blob(layer) for layer in stage.manifest.layers)
    pieces = [(one.read(2), two.read(3)) for _ in range(3)]
    assert b"shared" == b"".join(piece for piece, _ in pieces)
    assert b"own of st" == b"".join(piece for _, piece in pieces)
    one.close()
    two.close()


def test_an_archive_of_docker_save_with_an_index_is_a_layout(stage, path, archive):
    (path / "manifest.json").write_text("[]")
    (path / "repositories").write_text("{}")
    (path / "0123").mkdir()
    (path / "0123" / "layer.tar").symlink_to("../blobs/sha256/0123")
    subprocess.run(["tar", "-cf", archive, "-C", path, "."], check=True)
    assert ["v1"] == list(OciLayout(archive).tags())


def test_an_older_archive_of_docker_save_is_refused_with_a_way_out(archive):
    layout = packed(archive, member("manifest.json", b"[]"), member("0123/layer.tar", b""))
    with pytest.raises(UsageError, match=r"skopeo copy docker-archive:\S+layout.tar oci:DIRECTORY:TAG"):
        layout.check()


@pytest.mark.parametrize(
    ("pack", "kind"),
    [
        (gzip.compress, "gzip"),
        (bz2.compress, "bzip2"),
        (lzma.compress, "xz"),
        (lambda _: b"\x28\xb5\x2f\xfd" + bytes(600), "zstd"),
    ],
)
def test_a_compressed_file_is_refused_with_a_way_out(stage, path, archive, pack, kind):
    subprocess.run(["tar", "-cf", archive, "-C", path, "."], check=True)
    archive.write_bytes(pack(archive.read_bytes()))
    with pytest.raises(UsageError, match=rf"is compressed \({kind}\), .*: decompress it"):
        OciLayout(archive).check()


@pytest.mark.parametrize("content", [b"", b"x", b"x" * 5000, b"PK\x03\x04" + bytes(2000)])
def test_what_is_no_tar_file_is_refused(archive, content):
    archive.write_bytes(content)
    with pytest.raises(UsageError, match="neither a directory nor a tar file of a layout"):
        OciLayout(archive).check()


def test_a_tar_file_of_something_else_is_refused(archive):
    with pytest.raises(UsageError, match="has no file oci-layout"):
        packed(archive, member("notes.txt", b"x")).check()


def test_a_file_that_was_cut_is_told(stage, path, archive):
    subprocess.run(["tar", "-cf", archive, "-C", path, "blobs", "oci-layout", "index.json"], check=True)
    whole = archive.read_bytes()
    for size in range(512, len(whole) - 10240, 256):
        archive.write_bytes(whole[:size])
        layout = OciLayout(archive)
        with pytest.raises((ContentError, UsageError)) as caught:
            layout.resolve("v1")
        assert "\n" not in str(caught.value)


def test_a_tar_file_is_never_written(stage, path, archive):
    subprocess.run(["tar", "-cf", archive, "-C", path, "."], check=True)
    layout, before = OciLayout(archive), archive.read_bytes()
    with pytest.raises(UsageError, match="is a tar file, which is only read"), layout.writing():
        pass
    with pytest.raises(UsageError, match="is a tar file, which is only read"):
        layout.delete("v1")
    assert before == archive.read_bytes()


@pytest.mark.parametrize(
    "odd",
    [
        member("../index.json", b"{}"),
        member("/index.json", b"{}"),
        member("blobs/sha256/../../index.json", b"{}"),
        member("x/index.json", b"{}"),
        member("./../oci-layout", b"{}"),
    ],
)
def test_names_that_lead_elsewhere_lead_nowhere(archive, odd):
    layout = packed(archive, member("oci-layout", VERSION), member("index.json", INDEX), odd)
    assert [] == list(layout.tags())


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_lead_nowhere(archive, tmp_path, kind):
    secret = b"a secret of this machine"
    (tmp_path / "secret").write_bytes(secret)
    digest = digest_of(secret)
    target = str(tmp_path / "secret")
    odd = member(f"blobs/sha256/{digest.hex}", type=kind, linkname=target)
    layout = packed(archive, odd, member("oci-layout", VERSION), member("index.json", INDEX))
    assert [] == list(layout.tags())
    assert files.TarFiles(archive).open(f"blobs/sha256/{digest.hex}") is None
    for name in ("oci-layout", "index.json"):
        info, _ = member(name, type=kind, linkname=target)
        packed(archive, (info, b""))
        assert files.TarFiles(archive).open(name) is None


def test_two_files_with_the_name_of_the_index_are_refused(archive):
    members = [member("oci-layout", VERSION), member("index.json", INDEX), member("./index.json", INDEX)]
    with pytest.raises(ContentError, match=r"has two files index\.json"):
        packed(archive, *members).check()


def test_of_two_blobs_with_a_name_the_digest_tells(layout, stage, archive, path):
    layer = stage.manifest.layers[0]
    odd = member(f"blobs/sha256/{layer.digest.hex}", b"x" * layer.size)
    subprocess.run(["tar", "-cf", archive, "-C", path, "."], check=True)
    with tarfile.open(archive, "a") as target:
        target.addfile(odd[0], io.BytesIO(odd[1]))
    with OciLayout(archive).open_blob(layer) as blob, pytest.raises(ContentError):
        blob.read()


def header(name=b"index.json", size=b"00000000000\0", kind=b"0"):
    block = bytearray(name.ljust(100, b"\0") + b"0000644\0" + b"0000000\0" * 2 + size + b"00000000000\0")
    block += b" " * 8 + kind + bytes(100) + b"ustar\x0000" + bytes(247)
    block[148:156] = b"%06o\0 " % (sum(block))
    return bytes(block)


NEGATIVE = b"\xff" + b"\xff" * 10 + b"\x00"  # base-256: -256


@pytest.mark.parametrize(
    "content",
    [
        header() + header(size=NEGATIVE),
        header() + header(name=b"x", size=NEGATIVE) * 3,
        header() + header(size=NEGATIVE, kind=b"L"),
        header() + header(size=NEGATIVE, kind=b"x"),
        header() + header(size=b"77777777777\0", kind=b"x"),
        header() + header(size=b"77777777777\0", kind=b"L"),
        header() + header(size=b"77777777777\0"),
        header() + header(kind=b"x", size=b"00000000000\0") * 20_000,
        header() + header(kind=b"g", size=b"00000000000\0") * 20_000,
        header() + header(kind=b"S"),
        header() + header(size=b"zzzzzzzzzzz\0"),
    ],
    ids=range(11),
)
def test_hostile_headers_end_in_one_line(archive, content):
    archive.write_bytes(content + bytes(1024))
    os.truncate(archive, 2**33)  # as sparse as it can be
    tracemalloc.start()
    try:
        with pytest.raises((ContentError, UsageError)) as caught:
            OciLayout(archive).check()
        assert tracemalloc.get_traced_memory()[1] < 64 * 1024 * 1024
    finally:
        tracemalloc.stop()
    assert "\n" not in str(caught.value)


def test_a_file_has_a_bound_of_members(archive, monkeypatch):
    monkeypatch.setattr(files, "_MOST_MEMBERS", 2)
    members = [member(f"blobs/sha256/{number:064x}", b"") for number in range(3)]
    with pytest.raises(UsageError, match="more than 2 blobs"):
        packed(archive, *members).check()


def test_members_of_other_names_take_no_memory(archive):
    with tarfile.open(archive, "w") as target:
        for number in range(5000):
            target.addfile(tarfile.TarInfo(f"other/{number}"))
        for info, content in (member("oci-layout", VERSION), member("index.json", INDEX)):
            target.addfile(info, io.BytesIO(content))
    tracemalloc.start()
    try:
        OciLayout(archive).check()
        assert tracemalloc.get_traced_memory()[1] < 1024 * 1024
    finally:
        tracemalloc.stop()


def test_a_missing_blob_of_a_tar_file(stage, path, archive):
    subprocess.run(["tar", "-cf", archive, "-C", path, "oci-layout", "index.json"], check=True)
    layout = OciLayout(archive)
    with pytest.raises(BrokenStageError, match=r"layout\.tar lacks the blob"):
        layout.fetch_manifest(layout.resolve("v1").digest)
    assert {"v1"} == {
        entry["annotations"]["org.opencontainers.image.ref.name"]
        for entry in json.loads((path / "index.json").read_text())["manifests"]
    }
