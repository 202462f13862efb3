"""Stress inputs: what test data leaves out."""
