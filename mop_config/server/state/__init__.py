"""What the workers of a host share: the records in the state folder."""
