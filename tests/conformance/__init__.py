"""Tests of the conformance suite: its vectors, its runner, and what clients get from it."""
