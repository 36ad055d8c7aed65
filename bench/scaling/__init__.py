"""Several workers: how the kernel spreads connections, and what a second core gives."""
