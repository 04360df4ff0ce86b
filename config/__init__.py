"""Configuration of the Celery application."""
