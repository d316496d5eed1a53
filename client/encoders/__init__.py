"""Named local functions from records to a vector: what a site computes when a query asks for it."""
