"""The records in the state folder, which the workers of a host share."""
