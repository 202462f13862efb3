"""Metrics, and running two things on the same inputs."""
