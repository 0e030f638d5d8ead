"""Flows: exact densities."""
