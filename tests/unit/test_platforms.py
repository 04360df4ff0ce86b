from __future__ import annotations

import pytest

from stagefleet.errors import InvalidNameError, UsageError
from stagefleet.images import Platform, PlatformSelection
from stagefleet.names import Repository
from stagefleet.operations.fetch import FetchOperation
from stagefleet.project_addresses import Project


@pytest.mark.parametrize("text", ["linux/amd64", "linux/arm64/v8", "windows/amd64"])
def test_a_platform_reads_back(text):
    assert text == str(Platform.parse(text))


@pytest.mark.parametrize(
    "text", ["", "foo", "linux", "linux/", "Linux/amd64", "linux/arm64/v8/x", "linux/amd64\n"]
)
def test_what_is_no_platform_is_refused(text):
    with pytest.raises(InvalidNameError, match="write OS/ARCHITECTURE"):
        Platform.parse(text)


@pytest.mark.parametrize(
    ("found", "matches"),
    [
        ({"os": "linux", "architecture": "arm64"}, True),
        ({"os": "linux", "architecture": "arm64", "variant": "v8"}, True),
        ({"os": "linux", "architecture": "arm64", "variant": "v9"}, False),
        ({"os": "windows", "architecture": "arm64"}, False),
        ({}, False),
    ],
)
def test_a_variant_counts_where_both_have_one(found, matches):
    assert matches is Platform("linux", "arm64", "v8").matches(found)


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("linux/amd64", "linux/amd64"),
        ("linux/x86_64", "linux/amd64"),
        ("linux/amd64/v1", "linux/amd64"),
        ("linux/amd64/v3", "linux/amd64/v3"),
        ("linux/arm64/v8", "linux/arm64"),
        ("linux/aarch64/8", "linux/arm64"),
        ("linux/arm64/v9", "linux/arm64/v9"),
        ("linux/arm/v7", "linux/arm"),
        ("linux/armhf", "linux/arm"),
        ("linux/armel", "linux/arm/v6"),
        ("linux/arm/6", "linux/arm/v6"),
        ("linux/i386", "linux/386"),
    ],
)
def test_spellings_of_one_platform_have_one_normal_form(text, normal):
    assert normal == str(Platform.parse(text).normal)


@pytest.mark.parametrize(
    ("document", "platform"),
    [
        ({"os": "linux", "architecture": "arm64", "variant": "v8"}, Platform("linux", "arm64")),
        ({"os": "Linux", "architecture": "AMD64", "os.version": "x"}, Platform("linux", "amd64")),
        ({"os": "unknown", "architecture": "unknown"}, None),
        ({"os": "", "architecture": "arm64", "variant": "v8"}, None),
        ({"os": "linux", "architecture": "no such / thing"}, None),
        ({}, None),
    ],
)
def test_a_document_tells_a_platform_or_none(document, platform):
    assert platform == Platform.of(document)


def test_the_engines_own_platform_is_the_choice_of_who_chooses_nothing():
    for choice in (PlatformSelection(), PlatformSelection.parse(None), PlatformSelection.parse([])):
        assert not choice
        assert {} == choice.as_options()


@pytest.mark.parametrize(
    "choice",
    [
        PlatformSelection(),
        PlatformSelection.parse(["linux/arm64/v8", Platform("linux", "amd64"), "linux/arm64/v8"]),
        PlatformSelection.parse(None, everything=True),
    ],
)
def test_a_choice_reads_back_from_the_options_of_a_run(choice):
    project = Project.alone(Repository.parse("a.test/app"))
    options = FetchOperation.of(project, choice, hosts=["a"]).options
    assert choice == FetchOperation.model_validate(options).selection


def test_a_choice_that_is_none_is_refused():
    with pytest.raises(UsageError, match="not both"):
        PlatformSelection.parse(["linux/amd64"], everything=True)
    with pytest.raises(UsageError, match="list of platforms"):
        PlatformSelection.parse("linux/amd64")
    with pytest.raises(InvalidNameError, match="'foo' is no platform"):
        PlatformSelection.parse(["linux/amd64", "foo"])
