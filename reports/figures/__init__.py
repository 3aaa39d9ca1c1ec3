"""Figures of what is stored."""
