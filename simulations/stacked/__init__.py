"""Several sites of a simulation that take their training steps together on one base model."""
