"""Events: decoding them from a job's output, and what they are."""
