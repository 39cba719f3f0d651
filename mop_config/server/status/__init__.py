"""What the workers of a host say of themselves: the status document, metrics and their words."""
