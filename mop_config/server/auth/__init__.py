"""Access: the tokens, the token file, and the rules for requests."""
