"""What is answered: the snapshot, its store, conditional requests and long polls."""
