"""Hypothesis strategies and slow reference implementations that the library's own tests use."""
