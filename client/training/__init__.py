"""One site's local work in a round, and what is kept of it while it is not finished."""
