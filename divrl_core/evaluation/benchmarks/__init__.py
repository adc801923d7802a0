"""Benchmarks: references with their prompts, whatever the layout of their files."""
