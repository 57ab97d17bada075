"""The experiment on the unseen tasks of Meta-World."""
