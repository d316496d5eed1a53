"""The coordinator's one public port and what lies behind it: who may speak, and the post of each site."""
