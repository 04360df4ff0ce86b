"""Celery's consumer, with events that leave together."""

from __future__ import annotations

from celery.worker.consumer import Consumer

__all__ = ["FLUSH_SECONDS", "FrugalConsumer"]

FLUSH_SECONDS = 0.5
"""How late Flower may hear of an item; sooner when Celery's buffer of 24 events is full."""


class FrugalConsumer(Consumer):  # type: ignore[misc]  # Celery ships no types
    """A consumer that publishes its events in batches.

    Celery publishes the buffered events at each turn of its loop, which is a request to Redis for nearly
    every item, in the one thread that feeds the pool. See docs/operations.md for what that costs.
    """

    def on_send_event_buffered(self) -> None:
        """Leave the event in the buffer: `flush_events` is called every `FLUSH_SECONDS`."""

    def flush_events(self) -> None:
        """Publish what is buffered; to be called by the loop."""
        if self.event_dispatcher:
            self.event_dispatcher.flush()
