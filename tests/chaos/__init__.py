"""Kills, aborts and bad days on the real lab: `python -m tests.chaos`."""
