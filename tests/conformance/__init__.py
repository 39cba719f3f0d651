"""Tests of the conformance suite: its vectors, its runner, and its results for clients."""
