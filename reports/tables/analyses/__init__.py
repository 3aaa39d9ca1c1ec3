"""Tables of what was asked of trained networks."""
