"""The records kept beside stages in a repository, and their tag grammar."""
