"""Access: tokens, the file that they come from, and what a request may do."""
