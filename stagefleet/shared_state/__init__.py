"""What the workers remember together in Redis and may lose."""
