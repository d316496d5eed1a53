"""What sealing, adding up and checking have in common; PROTOCOL.md is its specification."""
