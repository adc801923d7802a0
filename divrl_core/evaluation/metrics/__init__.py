"""Metrics of finished pictures: each in a file of its own, with its source."""
