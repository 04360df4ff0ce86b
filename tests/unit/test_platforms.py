from __future__ import annotations

import pytest

from stagefleet.errors import InvalidNameError
from stagefleet.platforms import Platform


@pytest.mark.parametrize("text", ["linux/amd64", "linux/arm64/v8", "windows/amd64"])
def test_a_platform_reads_back(text):
    assert text == str(Platform.parse(text))


@pytest.mark.parametrize("text", ["", "linux", "linux/", "Linux/amd64", "linux/arm64/v8/x", "linux/amd64\n"])
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
