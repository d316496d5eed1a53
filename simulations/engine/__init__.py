"""What carries a simulated run: one process, worker processes, or a Ray cluster."""
