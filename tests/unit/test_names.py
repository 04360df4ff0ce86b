"""Names are parsed once, whole, and come back as they were."""

from __future__ import annotations

import pickle
import re
import string
from collections.abc import Callable

import pytest
from hypothesis import given, strategies as st

from stagefleet.errors import InvalidNameError
from stagefleet.names import (
    Digest,
    EngineProject,
    LayoutPath,
    Reference,
    Repository,
    StageId,
    is_tag,
    parse_address,
)

HEX56 = "0123456789abcdef" * 3 + "01234567"
HEX64 = "0123456789abcdef" * 4


def hexes(size_bytes: int) -> st.SearchStrategy[str]:
    return st.binary(min_size=size_bytes, max_size=size_bytes).map(bytes.hex)


components = st.from_regex(r"[a-z0-9]{1,8}(?:(?:\.|_|__|-{1,3})[a-z0-9]{1,4}){0,2}", fullmatch=True)
paths = st.lists(components, min_size=1, max_size=4).map("/".join)
labels = st.from_regex(r"[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,6}[a-zA-Z0-9])?", fullmatch=True)
ports = st.integers(1, 65535).map(lambda port: f":{port}")
hosts = st.one_of(
    st.builds("{}.{}".format, labels, labels),
    st.builds("{}{}".format, labels, ports),
    st.builds("[{}]{}".format, st.sampled_from(["::1", "fe80::1"]), st.one_of(st.just(""), ports)),
    st.just("localhost"),
)
repositories = st.builds(Repository, hosts, paths)
tags = st.text(string.ascii_letters + string.digits + "_.-", min_size=1, max_size=128).filter(
    lambda tag: tag[0] not in ".-"
)
digests = st.one_of(
    st.builds(Digest, st.just("sha256"), hexes(32)),
    st.builds(Digest, st.just("sha512"), hexes(64)),
)
stage_ids = st.builds(StageId, hexes(28), st.integers(0, 2**63 - 1))

PARSERS: dict[str, tuple[Callable[[str], object], str]] = {
    "digest": (Digest.parse, f"sha256:{HEX64}"),
    "repository": (Repository.parse, "localhost:5000/a/b"),
    "tagged": (Reference.parse, "localhost:5000/a/b:latest"),
    "by digest": (Reference.parse, f"localhost:5000/a/b@sha256:{HEX64}"),
    "stage": (StageId.parse, f"{HEX56}-1700000000000"),
    "multi-platform stage": (StageId.parse, HEX56),
    "engine": (parse_address, "docker-daemon:app"),
}
parsers = pytest.mark.parametrize(("parse", "good"), PARSERS.values(), ids=PARSERS)


class TestRoundTrips:
    @given(repositories)
    def test_a_repository_reads_as_it_is_written(self, repository: Repository):
        assert repository == Repository.parse(str(repository))
        assert repository == parse_address(str(repository))

    @given(repositories, tags)
    def test_a_tagged_reference_reads_as_it_is_written(self, repository: Repository, tag: str):
        reference = repository.tagged(tag)
        assert reference == Reference.parse(str(reference))
        assert tag == reference.identifier

    @given(repositories, digests)
    def test_a_reference_by_digest_reads_as_it_is_written(self, repository: Repository, digest: Digest):
        reference = Reference.of(repository, digest)
        assert reference == Reference.parse(str(reference))
        assert str(digest) == reference.identifier

    @given(digests)
    def test_a_digest_reads_as_it_is_written(self, digest: Digest):
        assert digest == Digest.parse(str(digest))

    @given(stage_ids)
    def test_a_stage_id_reads_as_it_is_written(self, stage_id: StageId):
        assert stage_id == StageId.parse(str(stage_id))
        assert stage_id == StageId.from_tag(str(stage_id))
        assert is_tag(str(stage_id))
        assert is_tag(stage_id.rejected_tag)

    @given(components)
    def test_an_engines_address_reads_as_it_is_written(self, project: str):
        assert EngineProject(project) == parse_address(str(EngineProject(project)))

    @given(stage_ids)
    def test_the_record_of_a_rejection_is_no_stage(self, stage_id: StageId):
        assert None is StageId.from_tag(stage_id.rejected_tag)

    @given(st.one_of(repositories, digests, stage_ids))
    def test_names_survive_pickling(self, name: object):
        assert name == pickle.loads(pickle.dumps(name))  # noqa: S301 - our own bytes


def parsed_or_none(parse: Callable[[str], object], text: str) -> object | None:
    """What a text names; a refusal has to be one short line."""
    try:
        return parse(text)
    except InvalidNameError as error:
        refusal = str(error)
    assert refusal.isprintable()
    assert len(refusal) < 400
    return None


class TestHostileInput:
    @given(st.text())
    @parsers
    def test_any_text_is_read_whole_or_refused(self, parse: Callable[[str], object], good: str, text: str):
        assert text == str(parsed_or_none(parse, text) or text)

    @parsers
    @pytest.mark.parametrize(
        "extra", ["\n", "\r\n", "\0", " ", "\t", "\u200b", "é", "٣", "\uff11", "\u2028", "\ud800"]
    )
    @pytest.mark.parametrize("place", ["before", "inside", "after"])
    def test_one_foreign_character_anywhere_is_refused(
        self, parse: Callable[[str], object], good: str, extra: str, place: str
    ):
        middle = len(good) // 2
        text = {
            "before": extra + good,
            "inside": good[:middle] + extra + good[middle:],
            "after": good + extra,
        }
        with pytest.raises(InvalidNameError):
            parse(text[place])

    @parsers
    def test_an_empty_text_is_refused(self, parse: Callable[[str], object], good: str):
        with pytest.raises(InvalidNameError):
            parse("")

    @parsers
    @pytest.mark.parametrize("filler", ["a", "-", "a-", "a/", "a.", ":", "@", "0", "\n", "'", "\\"])
    def test_a_huge_text_is_refused_with_a_short_message(
        self, parse: Callable[[str], object], good: str, filler: str
    ):
        with pytest.raises(InvalidNameError) as refused:
            parse(good + filler * 1_000_000)
        assert len(str(refused.value)) < 400

    @parsers
    def test_what_a_good_name_is_made_of_is_good(self, parse: Callable[[str], object], good: str):
        assert good == str(parse(good))


class TestRepository:
    @pytest.mark.parametrize(
        ("text", "advice"),
        [
            ("https://localhost:5000/a", "scheme"),
            ("ubuntu", "docker.io"),
            ("library/ubuntu", "docker.io"),
            ("localhost:5000", "names no registry"),
            ("localhost:5000/", "lower-case"),
            ("localhost:5000/a:tag", "tag or digest"),
            (f"localhost:5000/a@sha256:{HEX64}", "tag or digest"),
            ("localhost:5000/A", "lower-case"),
            ("localhost:5000/a//b", "lower-case"),
            ("localhost:5000/a/", "slash at its end"),
            ("localhost:5000/../a", "lower-case"),
            ("localhost:5000/a___b", "lower-case"),
            ("localhost:123456/a", "host"),
            ("localhost:99999/a", "65535"),
            ("localhost:65536/a", "65535"),
            ("localhost:0/a", "from 1"),
            ("localhost:/a", "host"),
            ("-a.example/a", "host"),
            ("a..example/a", "host"),
            ("user:password@a.example/a", "host"),
            ("[::1/a", "host"),
            ("٣.example/a", "host"),
        ],
    )
    def test_a_malformed_one_is_refused_with_advice(self, text: str, advice: str):
        with pytest.raises(InvalidNameError, match=re.escape(advice)):
            Repository.parse(text)

    def test_the_longest_has_255_characters(self):
        host = "localhost:5000/"
        longest = host + "a" * (255 - len(host))

        assert longest == str(Repository.parse(longest))
        with pytest.raises(InvalidNameError, match="longer than 255"):
            Repository.parse(longest + "a")

    def test_its_name_is_the_last_part(self):
        assert "c" == Repository.parse("localhost/a/b/c").name
        assert "a" == Repository.parse("localhost/a").name


class TestReference:
    def test_it_needs_a_tag_or_a_digest_and_not_both(self):
        repository = Repository("localhost", "a")
        with pytest.raises(InvalidNameError):
            Reference(repository)
        with pytest.raises(InvalidNameError):
            Reference(repository, tag="a", digest=Digest("sha256", HEX64))

    @pytest.mark.parametrize(
        "text", ["localhost:5000/a", "localhost/a", "localhost:5000/a:", "localhost/a@", "a:b"]
    )
    def test_one_without_either_is_refused(self, text: str):
        with pytest.raises(InvalidNameError):
            Reference.parse(text)

    @pytest.mark.parametrize("tag", ["", "-a", ".a", "a b", "a" * 129, "é", "a\n"])
    def test_a_malformed_tag_is_refused(self, tag: str):
        assert not is_tag(tag)
        with pytest.raises(InvalidNameError):
            Repository("localhost", "a").tagged(tag)


class TestStageId:
    def test_with_a_time_it_is_of_one_platform(self):
        stage_id = StageId.parse(f"{HEX56}-1700000000000")
        assert (HEX56, 1_700_000_000_000, False) == (
            stage_id.digest,
            stage_id.created_ms,
            stage_id.is_multiplatform,
        )

    def test_without_a_time_it_is_multi_platform(self):
        assert StageId.parse(HEX56).is_multiplatform
        assert f"{HEX56}-0-rejected" == StageId.parse(HEX56).rejected_tag

    @pytest.mark.parametrize(
        "text",
        [
            f"{HEX56}-0",
            f"{HEX56}-01",
            f"{HEX56}-",
            f"{HEX56}--1",
            f"{HEX56}-+1",
            f"{HEX56}-1_0",
            f"{HEX56}-{2**63}",
            f"{HEX56}-1-rejected",
            HEX56[:-1],
            HEX56 + "0",
            HEX56.upper(),
            f"{HEX56}-\uff11",
            "managed-image-app",
        ],
    )
    def test_anything_else_is_no_stage(self, text: str):
        assert None is StageId.from_tag(text)
        with pytest.raises(InvalidNameError, match="DIGEST-CREATED_MS"):
            StageId.parse(text)

    def test_they_sort_by_digest_and_then_by_time(self):
        early, late = StageId(HEX56, 1), StageId(HEX56, 2)
        assert [early, late] == sorted([late, early])


class TestDigest:
    @pytest.mark.parametrize(
        "text",
        [
            HEX64,
            f"sha256:{HEX64[:-1]}",
            f"sha256:{HEX64.upper()}",
            f"sha512:{HEX64}",
            f"md5:{HEX64}",
            f"SHA256:{HEX64}",
        ],
    )
    def test_a_malformed_one_is_refused(self, text: str):
        with pytest.raises(InvalidNameError):
            Digest.parse(text)


class TestDockerDaemon:
    @pytest.mark.parametrize(
        "text", ["docker-daemon:", "docker-daemon:A", "docker-daemon:a/b", "docker-daemon:a:b"]
    )
    def test_a_malformed_project_is_refused(self, text: str):
        with pytest.raises(InvalidNameError, match="docker-daemon:PROJECT"):
            parse_address(text)


def test_a_slash_at_the_end_is_named():
    """U13: the error says what is wrong."""
    with pytest.raises(InvalidNameError, match="leave out the slash at its end"):
        Repository.parse("localhost:5000/app/stages/")


def test_the_path_of_a_layout_is_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to("/elsewhere")
    for text in ("oci:a/b", "oci:./a/../a/b/", f"oci:{tmp_path}/a//b"):
        assert f"oci:{tmp_path}/a/b" == str(parse_address(text))
    assert f"oci:{tmp_path}/link" == str(parse_address("oci:link"))  # links are resolved where it is opened
    assert LayoutPath(f"{tmp_path}/it's {{odd}}:é") == parse_address("oci:it's {odd}:é")


@pytest.mark.parametrize("path", ["", "a\0b", "a\nb", "a" * 5000])
def test_what_can_be_no_path_is_refused(path):
    with pytest.raises(InvalidNameError, match="is no path of an OCI layout: write oci:DIRECTORY"):
        parse_address(f"oci:{path}")
