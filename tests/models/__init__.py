"""Exhaustive search over small worlds: the protocol as built is safe in all of them, each wrong variant in none."""
