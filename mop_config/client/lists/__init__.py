"""The client's endpoint list: where it comes from, what is taken of it, and its cache."""
