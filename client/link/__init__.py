"""A site's connection to its coordinator: outbound only, and nothing on it is lost or said in two ways."""
