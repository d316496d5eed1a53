"""A language model that learns to answer, in simulations: what joining does to the answers."""
