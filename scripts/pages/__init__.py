"""Flower's pages in a browser: what they show of a real fleet is checked, and drawn for the documentation."""
