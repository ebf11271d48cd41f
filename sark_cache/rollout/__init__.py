"""Percentage rollouts: which users get a feature."""
