"""Tests of the endpoint list as data."""
