"""Tests of what all callers of the network share."""
