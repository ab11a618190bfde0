"""What runs under the nodes: calls to models, budgets, the clock, progress events."""
