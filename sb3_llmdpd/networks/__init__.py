"""Networks without a policy around them."""
