from __future__ import annotations

from importlib.metadata import version

import stagefleet


def test_every_public_name_is_there():
    assert set(stagefleet.__all__) == set(stagefleet._HOMES)
    for name in set(stagefleet.__all__) - {"__version__"}:
        assert getattr(stagefleet, name).__name__ == name
    assert version("stagefleet") == stagefleet.__version__
    assert set(stagefleet.__all__) <= set(dir(stagefleet))
