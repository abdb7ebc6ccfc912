"""ARPO's tab."""
