"""What data are worth, before anything is trained on them."""
