"""How the Celery application is configured."""
