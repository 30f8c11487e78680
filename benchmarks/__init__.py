"""Measurements, each `python -m benchmarks.NAME`; their figures and commands are in RESULTS.md."""
