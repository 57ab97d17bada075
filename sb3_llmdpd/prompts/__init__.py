"""Prompts: sentences and examples by which a user names a task, and the encoders that read them."""
