"""Many sites on one machine, the demo, and the command line."""
