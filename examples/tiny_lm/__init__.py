"""A small language model, trained from scratch, whose agents have something to deliberate about."""
