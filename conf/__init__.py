"""Hydra's YAML: one file per entry point, one folder per group. Values that differ from `common/config.py`, and why."""
