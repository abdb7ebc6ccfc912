"""The adapter of A1111, Forge and reForge, duck-typed."""
