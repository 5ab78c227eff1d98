"""What speaks: language models behind one protocol."""

from evolvent.models.protocol import Choice, Completion, LanguageModel, Message, Prompt, Sampling, Score

__all__ = ["Choice", "Completion", "LanguageModel", "Message", "Prompt", "Sampling", "Score"]
