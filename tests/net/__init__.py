"""Tests of the network code that server, client and command line share."""
