"""Log records of a process: their format, the masking of secrets, and the queue to the log."""
