"""What a planned job will cost, from a short simulation."""
