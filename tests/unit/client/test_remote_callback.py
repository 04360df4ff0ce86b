"""What may be called back, and what it makes of an order."""

from __future__ import annotations

import pytest

from stagefleet.client import RemoteCallback
from stagefleet.errors import UsageError
from stagefleet.runs.model import Callback, ItemState, Outcome

URL = "https://ci.example/outcomes"


@pytest.mark.parametrize(
    ("options", "callback", "target"),
    [
        ({"outcome_url": URL}, Callback.WEBHOOK, URL),
        ({"outcome_task": "acme.note@acme"}, Callback.TASK, "acme.note@acme"),
        ({"finish_url": URL}, Callback.NONE, ""),
    ],
)
def test_an_order_says_who_is_called(options, callback, target):
    fields = RemoteCallback(**options).order_fields()
    assert (callback, target) == (fields["callback"], fields["callback_target"])
    assert options.get("finish_url", "") == fields["finish_url"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "name one"),
        ({"outcome_url": URL, "outcome_task": "acme.note"}, "not to both"),
        ({"outcome_url": "ftp://ci.example/"}, "outcome URL is malformed"),
        ({"outcome_url": "https://"}, "outcome URL is malformed"),
        ({"outcome_url": "https://ci.example:nonsense/"}, "outcome URL is malformed"),
        ({"finish_url": "ci.example/finish"}, "finish URL is malformed"),
        ({"finish_url": "https://ci.example/" + "x" * 2000}, "finish URL is malformed"),
        ({"outcome_url": "https://me:hunter2@ci.example/"}, "holds a login"),
        ({"outcome_task": "two words"}, "names no Celery task"),
    ],
)
def test_what_cannot_be_called_is_refused(options, words):
    with pytest.raises(UsageError, match=words) as caught:
        RemoteCallback(**options)
    assert "hunter2" not in str(caught.value)


def test_it_is_no_callable_of_this_process():
    with pytest.raises(UsageError, match="told by the fleet"):
        RemoteCallback(outcome_url=URL)(Outcome(item="a", state=ItemState.SUCCEEDED))
