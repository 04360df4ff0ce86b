"""Flower's settings; that its API asks for the login is tested with a real one."""

from typing import Any

import pytest
from pydantic import SecretStr, ValidationError

from stagefleet.setting_types import FlowerSettings


@pytest.mark.parametrize("half", [{"user": "me"}, {"password": "secret"}])
def test_a_login_has_both_halves(half: dict[str, Any]):
    with pytest.raises(ValidationError, match="user and password"):
        FlowerSettings(**half)


def test_a_password_is_not_shown():
    assert "hunter2" not in repr(FlowerSettings(user="me", password=SecretStr("hunter2")))
