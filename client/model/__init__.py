"""The base model: found, checked, loaded once, and dressed with an adapter."""
