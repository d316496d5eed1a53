"""Hands Flower's messages to the installed partsong."""
