"""Health checks of the served endpoints, by one worker of the host, and the alerts of outages."""
