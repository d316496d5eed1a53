"""A site's directory: where each file lies, how it is read, and what may be erased."""
