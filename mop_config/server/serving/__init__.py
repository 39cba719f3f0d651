"""The answers of the server: the snapshot, its store, conditional requests and long polls."""
