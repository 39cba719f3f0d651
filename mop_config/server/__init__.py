"""The server: the endpoint file, parsed, kept fresh in every worker, and served."""
