"""How a daemon is asked and watched on its own machine: gRPC over a Unix socket."""
