"""Collects traces: from questions and a team, or from answers that were recorded elsewhere."""
