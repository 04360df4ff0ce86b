"""Runs, their items and outcomes: the ledger and the coordinator."""
