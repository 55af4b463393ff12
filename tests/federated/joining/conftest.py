"""Hypothesis without a clock and with the same examples in every run."""

from hypothesis import settings

settings.register_profile("joining", deadline=None, derandomize=True)
settings.load_profile("joining")
