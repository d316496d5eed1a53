"""Checks of a coordinator."""
