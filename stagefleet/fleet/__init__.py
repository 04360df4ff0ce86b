"""The public API: `Fleet`, its arguments and plans."""
