"""Published comparisons: does joining pay, with which method, and at what price of privacy."""
