"""Attention over views, over depth samples and to one token; backends by name."""
