"""Sweeps: many runs in one folder, planned before the first begins, gone on with after a kill, ranked at the end."""
