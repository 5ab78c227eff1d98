"""Atlas: the field guide to scientific language models."""
