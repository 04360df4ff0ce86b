"""Shared and exclusive leases with fencing tokens."""
