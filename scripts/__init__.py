"""What `make` calls: set-up, the demo and the measurements."""
