"""What can go wrong in a bench, for people."""

from __future__ import annotations


class BenchError(Exception):
    """The bench cannot go on; the text says why and what to do next."""
