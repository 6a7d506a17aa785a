"""`perennial`, the one command: what people type, what scripts read, what `make` calls."""

from deployments.cli.app import app, main

__all__ = ["app", "main"]
