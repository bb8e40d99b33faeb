"""Remote jobs: one host asks, another runs, the results come back over any stream of bytes (seed, chapter 8)."""
