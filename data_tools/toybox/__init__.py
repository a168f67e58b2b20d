"""Toybox: a procedural world of captioned, coloured objects, made from a seed alone."""
