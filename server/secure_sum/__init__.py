"""The coordinator's side of the secure sum: it passes messages on and learns the sum."""
