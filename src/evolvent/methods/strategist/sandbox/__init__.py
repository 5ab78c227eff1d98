"""Where code that a language model wrote runs: a small language, in a process that can do nothing but compute."""
