"""Where prompts come from, and which of them are held out."""

from llmrl.prompts.sources import Prompt, PromptSplit, load_prompts

__all__ = ["Prompt", "PromptSplit", "load_prompts"]
