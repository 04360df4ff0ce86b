"""Celery tasks: what a worker does for one item, a module for each in `operations`."""
