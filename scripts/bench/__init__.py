"""Measurements, beside the tools that people use today, on the same data in the same run."""
