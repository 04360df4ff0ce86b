"""What is asked: the kinds of runs, with their options and plans."""
