"""Benchmarks: each starts and stops everything it needs, and prints a table and a JSON line."""
