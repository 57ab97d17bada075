"""The diffusion process over one action: noise schedules and the chain."""
