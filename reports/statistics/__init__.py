"""Intervals, tests and the rule of verdicts."""
