"""Relatives of the method, trained on the same data and told the same prompts."""
