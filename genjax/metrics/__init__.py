"""Measures of samples and of models."""
