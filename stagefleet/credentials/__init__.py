"""Logins to registries: Docker's configuration file and its credential helpers."""
