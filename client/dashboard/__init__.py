"""A site's dashboard: for its operator, on the site's own machine. Nothing on it is seen by the coordinator."""
