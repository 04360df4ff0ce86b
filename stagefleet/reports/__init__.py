"""Reports of runs for archives and CI systems: a page, JUnit XML, JSON; made of the ledger's outcomes."""
