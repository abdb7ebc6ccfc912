"""What the nodes have in common, and the host as the core asks for it."""
