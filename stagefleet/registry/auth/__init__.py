"""Logins to registries: challenges, tokens, and the `Authorization` header."""
