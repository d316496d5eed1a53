"""Pages that a daemon shows in a browser on its own machine: the door, the frame, what is the same on both sides."""
