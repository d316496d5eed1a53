"""Programs of the coordinator that ask queries."""
