"""The shape of an adapter: its tensors, its options, what each method trains and moves in a round."""
