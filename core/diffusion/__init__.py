"""Noise schedules, guidance and samplers: what diffusers' schedulers do not cover."""
