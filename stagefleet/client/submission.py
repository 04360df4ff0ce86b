"""How work becomes a run: the key looked up, the plan made, the ledger written."""

from __future__ import annotations

import contextlib
import logging
import random
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from itertools import islice
from time import sleep
from typing import TypeVar

from stagefleet.client.work import Plan
from stagefleet.errors import LedgerRewoundError, RunNotFoundError, StagefleetError, UsageError
from stagefleet.patience import OUTAGE_SECONDS, Patience
from stagefleet.runs.ledger import Ledger
from stagefleet.runs.model import Fate, Order, Outcome, RunState, Submission
from stagefleet.runs.run_log import log_run_started

__all__ = ["check_key", "submit"]

T = TypeVar("T")

_LOGGER = logging.getLogger("stagefleet")

_ITEMS_A_CALL = 2000
_POLL_SECONDS = 0.5
_MOST_BEGINNINGS = 10
"""How often a run is written whose beginning Redis forgets."""
_MAX_KEY_CHARACTERS = 200


def check_key(key: str | None) -> None:
    """Refuse keys that nobody can have meant.

    Raises:
        UsageError: The key is empty, too long, or holds characters that cannot be printed.
    """
    if key is not None and not (0 < len(key) <= _MAX_KEY_CHARACTERS and key.isprintable()):
        raise UsageError(f"an idempotency key has 1 to {_MAX_KEY_CHARACTERS} printable characters")


def submit(
    open_ledger: Callable[[], Ledger],
    order: Order,
    make_plan: Callable[[], Plan],
    *,
    again: Submission | None = None,
    patience: Patience | None = None,
) -> Submission:
    """Write a run and start it, or find the one under the order's key.

    The plan is made before anything is written, unless the key has a run already: a retried job gets its
    result also where the source has changed meanwhile. Where Redis forgets what was written, as in a
    failover, the run is written again from its first item.

    Args:
        open_ledger: Gives the ledger; called after the plan where possible, since it may start services.
        order: What is to be done.
        make_plan: Gives the items; called once at most.
        again: This client's own submission of the same, which Redis has forgotten a part of.
        patience: Waits while Redis is away, once the run is opened; before that nothing is lost by an error.

    Returns:
        The submission; the run under it has been started by this call or by another.

    Raises:
        UsageError: What the plan refuses, or a key used with other arguments.
        LeaseLostError: Another submitter with the same key took the run over.
        LedgerRewoundError: Redis goes on forgetting what was written.
    """
    patience = Patience(OUTAGE_SECONDS) if patience is None else patience
    plan = None if order.key is not None and open_ledger().has_key(order.key) else make_plan()
    make_once = cache(make_plan) if plan is None else lambda: plan
    ledger = open_ledger()
    for beginnings_left in reversed(range(_MOST_BEGINNINGS)):
        submission = _open(ledger, order, again)
        if submission.fate in {Fate.ATTACHED, Fate.SUCCEEDED}:
            break
        try:
            _write(ledger, submission, make_once, patience)
        except BaseException as error:
            if isinstance(error, LedgerRewoundError) and beginnings_left:
                again = submission
                continue
            # Under a key the run stays as it is: cancelled, the next attempt would go on with half of the
            # items. Once the submitter's lease is over, the next attempt starts it afresh.
            if order.key is None:
                with contextlib.suppress(StagefleetError):
                    ledger.cancel(submission.run)
            raise
        log_run_started(submission.run, order, submission.total)
        break
    return submission


def _open(ledger: Ledger, order: Order, again: Submission | None) -> Submission:
    """Open the run; one that another client is submitting is waited for.

    The wait ends with the other's submission, or its lease: then this client submits the run.
    """
    told = False
    while True:
        submission = ledger.open(order, again=again)
        if submission.fate is not Fate.ATTACHED:
            return submission
        with contextlib.suppress(RunNotFoundError):  # Redis has forgotten it since
            if ledger.run(submission.run).state is not RunState.SUBMITTING:
                return submission
        if not told:
            told = True
            _LOGGER.warning(
                "another client is starting run %s under this key: waiting until it has, or is gone",
                submission.run,
            )
        sleep(_POLL_SECONDS * random.uniform(0.5, 1.5))  # noqa: S311 - jitter, no secret


def _write(ledger: Ledger, submission: Submission, make_plan: Callable[[], Plan], patience: Patience) -> None:
    """Append the items, those that a previous run left or those of the plan, and start the run."""
    left = _leftover_plan(ledger, submission)
    plan = make_plan() if left is None else left
    for chunk in _chunks(plan.skips()):
        _append(ledger, submission, (), chunk, patience)
    for items in _chunks(plan.items):
        _append(ledger, submission, items, (), patience)
    patience(lambda: ledger.start(submission))


def _leftover_plan(ledger: Ledger, submission: Submission) -> Plan | None:
    """Plan what the previous run left; None without one, or where it expires before that is known."""
    if submission.fate is not Fate.CONTINUED or submission.previous is None:
        return None
    try:
        return Plan(tuple(ledger.leftovers(submission.previous)))
    except RunNotFoundError:
        return None


def _append(
    ledger: Ledger,
    submission: Submission,
    items: Sequence[str],
    decided: Sequence[Outcome],
    patience: Patience,
) -> None:
    nonce = secrets.token_hex(8)  # one for all tries: what was added and not answered is not added again
    patience(lambda: ledger.append(submission, items, decided, nonce=nonce))


def _chunks(values: Iterable[T]) -> Iterator[list[T]]:
    iterator = iter(values)
    while chunk := list(islice(iterator, _ITEMS_A_CALL)):
        yield chunk
