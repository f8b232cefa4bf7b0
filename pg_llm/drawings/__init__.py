"""Explanatory drawings as SVG, a module for each topic: each function returns one Drawing."""
