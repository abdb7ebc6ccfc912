"""Drift: what is measured on a model's own samples, and the corrections that are fitted to it."""
