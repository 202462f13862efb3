"""The Hypothesis profile of `make thorough`."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# Registered here, since pytest's option --hypothesis-profile is read before any test module is imported.
settings.register_profile(
    "thorough",
    max_examples=200,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
