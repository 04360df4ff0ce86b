"""The signature and the ids of calls."""

from __future__ import annotations

import base64

import pytest

from stagefleet.errors import SettingsError
from stagefleet.runs.models import ItemState, Outcome
from stagefleet.runs.webhook import call_id, sign
from stagefleet.settings import load_settings


def test_the_signature_is_that_of_the_specification_s_example():
    """From "Verifying webhooks manually" of Standard Webhooks' documentation."""
    key = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    signature = sign(key, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=" == signature


def test_ids_tell_items_hosts_and_runs_apart_and_are_the_same_again():
    outcome = Outcome(item="a", state=ItemState.SUCCEEDED)
    ids = [
        call_id("r1", outcome),
        call_id("r2", outcome),
        call_id("r1", outcome.model_copy(update={"host": "one"})),
        call_id("r1", Outcome(item="b", state=ItemState.SUCCEEDED)),
        call_id("r1", None),
    ]
    assert len(ids) == len(set(ids))
    assert not any("." in one for one in ids), "a full stop would end the id in what is signed"
    repeated = outcome.model_copy(update={"attempts": 3, "seconds": 1.0})
    assert ids[0] == call_id("r1", repeated)


@pytest.mark.parametrize("secret", ["hunter2", "whsec_hunter2", "whsec_c2hvcnQ=", "c" * 40])
def test_a_secret_that_is_none_is_refused_and_not_shown(secret, monkeypatch):
    monkeypatch.setenv("STAGEFLEET_WEBHOOKS__SECRET", secret)
    with pytest.raises(SettingsError, match="whsec_ and 24 to 64 bytes") as caught:
        load_settings()
    assert secret not in str(caught.value)
