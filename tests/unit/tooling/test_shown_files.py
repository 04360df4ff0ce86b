"""Pages that show whole files show them as they are."""

from __future__ import annotations

import re

import pytest

from tests.documents import ROOT, snippets

PAGES = {
    "docs/adding-an-operation.md": [
        "stagefleet/operations/verify.py",
        "tasks/verify.py",
        "stagefleet/cli/commands/verify.py",
    ],
    "docs/adding-a-storage.md": ["stagefleet/storages/oci_layout.py"],
}


@pytest.mark.parametrize("page", PAGES)
def test_the_programs_of_the_page_are_the_files(page):
    shown = [snippet.text for snippet in snippets() if snippet.page == page and snippet.language == "python"]
    assert [(ROOT / path).read_text() for path in PAGES[page]] == shown


@pytest.mark.parametrize("page", PAGES)
def test_the_files_that_the_page_names_exist(page):
    named = set(re.findall(r"`((?:stagefleet|tasks|tests|docs)/[\w/.-]*)`", (ROOT / page).read_text()))
    assert set(PAGES[page]) <= named
    assert [] == [path for path in named if not (ROOT / path).exists()]
