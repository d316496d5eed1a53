"""Checks of a deployment before it is needed: what was found, why that matters, what to do. No torch."""
