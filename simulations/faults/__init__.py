"""Faults as scripts: what goes wrong, when, at whom; drawn from a seed, written down, carried out again."""
