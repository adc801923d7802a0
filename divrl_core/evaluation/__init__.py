"""Held-out measures, contact sheets, curves and the report of a run."""
