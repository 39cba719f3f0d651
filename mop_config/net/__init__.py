"""The network from below: look-ups, dials, TLS contexts, and what their failures mean."""
