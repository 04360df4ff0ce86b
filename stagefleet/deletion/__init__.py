"""Deletion of tags in registries, and of nothing else."""
