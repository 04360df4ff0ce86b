"""The Celery tasks, one module a family."""
