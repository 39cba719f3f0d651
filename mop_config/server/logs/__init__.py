"""Log records of a process: their format, what is masked in them, and the queue to the log."""
