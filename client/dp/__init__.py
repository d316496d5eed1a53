"""Differentially private steps: sampling, per-record gradients, clipping, noise."""
