"""A site's side of the secure sum, and the door through which sealed words leave."""
