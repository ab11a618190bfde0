"""Attacks on the whole package: `make torture`, or `python -m tests.torture --help`."""
