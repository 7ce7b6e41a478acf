"""Recorded histories still replay: a worker of the new version may take over a run of the old one."""
