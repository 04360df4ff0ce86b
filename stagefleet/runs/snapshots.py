"""What a run's hash in Redis says, as values; its fields are explained in `lua/open.lua`."""

from __future__ import annotations

from stagefleet.runs.model import ErrorInfo, Order, Run, RunState

__all__ = ["order_of", "run_of"]


def order_of(order: bytes, parent: bytes | None) -> Order:
    """The order, with the run that the ledger made its parent."""
    parsed = Order.model_validate_json(order)
    return parsed.model_copy(update={"parent": parent.decode()}) if parent else parsed


def run_of(
    run: str, fields: dict[bytes, bytes], now_at: float, *, claimed: int, published: int, waiting: int
) -> Run:
    """The run at a moment, `now_at` seconds since 1970."""

    def number(name: bytes) -> int:
        return int(fields.get(name, 0))

    finished_ms, error = fields.get(b"finished_ms"), fields.get(b"error")
    return Run(
        id=run,
        order=order_of(fields[b"order"], fields.get(b"parent")),
        state=RunState(fields[b"state"].decode()),
        total=number(b"total"),
        succeeded=number(b"succeeded"),
        failed=number(b"failed"),
        skipped=number(b"skipped"),
        cancelled=number(b"cancelled"),
        claimed=claimed,
        published=published,
        waiting=waiting,
        bytes=number(b"bytes"),
        error=None if error is None else ErrorInfo.model_validate_json(error),
        created_at=number(b"created_ms") / 1000,
        finished_at=None if finished_ms is None else int(finished_ms) / 1000,
        now_at=now_at,
    )
