"""Benchmarks: tutelage beside its peers, and beside what the machine could do at most."""
