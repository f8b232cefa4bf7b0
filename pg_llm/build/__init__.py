"""Compiles the extension when the package is installed."""
