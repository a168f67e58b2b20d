"""Text to 3D: a radiance field that a frozen multi-view denoiser teaches, by score distillation."""
