"""Hazard rewrites: when each applies, what it does, why the result is the same."""
