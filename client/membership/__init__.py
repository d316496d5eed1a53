"""Becoming, being and ceasing to be a member of a consortium: keys, certificates and the charter that is pinned."""
