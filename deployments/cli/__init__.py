"""The `perennial` command, used by people, by scripts and by `make`."""

from deployments.cli.app import app, main

__all__ = ["app", "main"]
