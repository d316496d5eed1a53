"""Measurements, each against its peers in one interleaved run: `partsong bench NAME --json`."""
