"""Measurements: each module prints figures with their targets."""
