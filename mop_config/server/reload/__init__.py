"""The reload: what triggers it, the thread that runs it, and the steps from text to snapshot."""
