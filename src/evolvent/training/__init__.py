"""How weights change: fine-tuning over transformers, PEFT and accelerate, and providers' fine-tuning jobs."""
