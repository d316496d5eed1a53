"""What a plan may ask of records besides training: counts and sums, each with a bound for one unit."""
