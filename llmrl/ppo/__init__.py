"""Proximal policy optimisation for language models, on one machine."""
