"""llmrl: fine-tune small language models by reinforcement learning against rewards written in Python."""

__version__ = "0.1.0"
