"""The nodes of the graph, one module each, and what they share."""
