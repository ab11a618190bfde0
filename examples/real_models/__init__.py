"""Real language models for machines without a GPU: fetching, serving, and tasks for them."""
