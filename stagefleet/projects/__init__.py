"""Projects: a name and its storages by role."""
