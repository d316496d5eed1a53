"""Named local functions from records to a vector; the only ones a query may ask for."""
