"""Public path of what `sb3_llmdpd.benchmarks.metaworld.splits` holds."""

from sb3_llmdpd.benchmarks.metaworld.splits import SPLIT_NAMES, folds, tasks_of_split

__all__ = ["SPLIT_NAMES", "folds", "tasks_of_split"]
