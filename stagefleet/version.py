"""The version of this release; the wheel is built with it."""

__version__ = "0.1.0"
