"""Traces: one record per deliberation, its writer and reader, and the page that shows them."""
