"""Thin wrappers around the library's networks: the UNet's walk, image and text encoders, latents."""
