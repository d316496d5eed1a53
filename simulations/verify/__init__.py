"""`partsong verify`: a finished run recomputed from its public files."""
