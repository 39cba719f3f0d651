"""Health checks: the state machine, one check, and the queue that checks wait in."""
