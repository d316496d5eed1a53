"""What a run did, as facts that the coordinator signs, and as pages that people read."""
