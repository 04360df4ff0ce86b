"""Storages of stages: one class a medium, and the ways between them."""
