"""Trainers: what one is given, what it gives back, and the run around it."""

from llmrl.trainers.protocol import Outcome, Trainer, Workbench

__all__ = ["Outcome", "Trainer", "Workbench"]
