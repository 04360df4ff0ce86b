"""Stagefleet keeps the build stages of container images in registries, as a fleet."""
