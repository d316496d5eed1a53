"""Other simulators doing the same work, each a program of its own that prints one JSON object."""
