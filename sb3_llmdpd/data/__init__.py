"""Logged behaviour: episodes, and the sources they come from."""
