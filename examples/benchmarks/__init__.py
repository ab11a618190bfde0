"""Public benchmarks: their formats as questions, and every method run on them."""
