"""Measures: numbers in, numbers out, one file per measure. No plots, no hosts."""
