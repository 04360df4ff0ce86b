"""The client of a Docker Engine."""
