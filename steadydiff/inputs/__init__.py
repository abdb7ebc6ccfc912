"""Inputs: each method's widgets, declared once for both hosts."""
