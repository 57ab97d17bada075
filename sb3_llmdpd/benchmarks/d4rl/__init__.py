"""The experiment on D4RL's locomotion."""
