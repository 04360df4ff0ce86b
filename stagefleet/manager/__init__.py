"""The storage manager: one module a verb."""
