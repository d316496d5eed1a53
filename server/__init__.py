"""The coordinator's side: opens rounds, adds sealed vectors up, steps the global adapter."""
