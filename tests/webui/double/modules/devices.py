"""Imported by our extension, and not used in tests."""
