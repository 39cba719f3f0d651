"""The reload: its triggers, the thread that runs it, and the steps from text to snapshot."""
