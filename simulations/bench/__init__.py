"""Measurements, each a program that prints one JSON object: python -m partsong.simulations.bench.NAME."""
