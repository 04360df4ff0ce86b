"""What may be called back, and what it makes of an order."""

from __future__ import annotations

import pytest

from stagefleet.client import Fleet, RemoteCallback
from stagefleet.errors import UsageError
from stagefleet.names import Repository
from stagefleet.roles import Roles
from stagefleet.runs.model import Callback, ItemState, Outcome, WorkerInfo

URL = "https://ci.example/outcomes"
PLACE = "src.test/app"
ROLES = Roles(
    "app",
    Repository("src.test", "app"),
    final=Repository("dst.test", "app"),
    caches=(Repository("near.test", "app"),),
    secondaries=(Repository("old.test", "app"),),
)
STAGES = [f"{1:056x}-1700000000001"]
METHODS = {
    "for_each_cache_stage": (ROLES, STAGES),
    "for_each_copy_stage": (PLACE, "dst.test/app", STAGES),
    "for_each_delete_final_stage": (ROLES, STAGES),
    "for_each_delete_project_stage": (ROLES, STAGES),
    "for_each_delete_rejected_stage": (PLACE, STAGES),
    "for_each_delete_stage": (PLACE, STAGES),
    "for_each_delete_stage_custom_tag": (PLACE, ["latest"]),
    "for_each_describe_stage": (ROLES, STAGES),
    "for_each_fetch_stage": (PLACE, STAGES),
    "for_each_get_import_metadata": (PLACE, ["0f" * 32]),
    "for_each_get_stage_custom_tag_metadata": (PLACE, ["latest"]),
    "for_each_publish_stage": (ROLES, STAGES),
    "for_each_remove_record": (PLACE, "custom-tag", ["latest"]),
    "for_each_rm_image_metadata": (PLACE, "web", {STAGES[0]: ["c0" * 20]}),
    "for_each_rm_import_metadata": (PLACE, ["0f" * 32]),
    "for_each_rm_managed_image": (PLACE, ["web"]),
    "for_each_rm_record": (PLACE, "managed-image", ["web"]),
    "for_each_take_stage": (ROLES, STAGES),
}


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


def test_every_method_for_each_is_known_here():
    assert list(METHODS) == sorted(name for name in dir(Fleet) if name.startswith("for_each_"))


@pytest.mark.parametrize("name", METHODS)
def test_the_fleet_can_be_told_to_call_for_each(fleet, ledger, settings, name):
    ledger.beat(WorkerInfo("w:1", 1, ("fetch", f"host.{settings.engine.host_name}")), seconds=60)
    told = RemoteCallback(outcome_url=URL, finish_url=f"{URL}/end")
    run = getattr(fleet, name)(*METHODS[name], told, detach=True)
    order = ledger.order(run.id)
    assert (Callback.WEBHOOK, URL, f"{URL}/end") == (
        order.callback,
        order.callback_target,
        order.finish_url,
    )


def test_it_is_no_callable_of_this_process():
    with pytest.raises(UsageError, match="told by the fleet"):
        RemoteCallback(outcome_url=URL)(Outcome(item="a", state=ItemState.SUCCEEDED))
