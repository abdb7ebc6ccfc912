"""Adapters between hosts and methods, duck-typed: no host module is imported here."""
