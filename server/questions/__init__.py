"""Evaluations and surveys at the coordinator: their plans, and what their sums say."""
