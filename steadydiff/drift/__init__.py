"""Drift: what is measured on a model's own samples, and the schedules calibrated from it."""
