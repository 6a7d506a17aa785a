"""Chaos tests: killed processes, failing stores and moving clocks. `make chaos` runs all of them."""
