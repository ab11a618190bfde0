"""Answer schemas: how an answer is read out of a response, and when two answers are the same."""
