"""Findings → plan: what is rewritten, what stays FP32, and why."""
