"""Public path of what `sb3_llmdpd.benchmarks.d4rl.settings` holds."""

from sb3_llmdpd.benchmarks.d4rl.settings import MAX_GRAD_NORMS, QUALITIES, ROBOTS, D4RLSettings, Robot

__all__ = ["MAX_GRAD_NORMS", "QUALITIES", "ROBOTS", "D4RLSettings", "Robot"]
