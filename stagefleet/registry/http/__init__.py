"""HTTP to registries: one concern a module."""
