"""Celery tasks, one module per family."""
