"""Compares methods on the same questions and samples, every token counted."""
