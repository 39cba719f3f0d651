"""Tests of the QR codes."""
