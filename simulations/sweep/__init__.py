"""Many runs that differ in a few settings, and one table of what came out."""
