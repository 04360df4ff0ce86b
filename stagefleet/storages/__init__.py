"""Where stages are kept: one Protocol, and a storage per medium."""
