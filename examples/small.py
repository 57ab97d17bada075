"""Settings with which the examples train in seconds on a CPU."""

from typing import Any

from sb3_llmdpd import CosineSchedule

SMALL: dict[str, Any] = {"batch_size": 128, "eta": 0.1, "learning_rate": CosineSchedule(1e-3)}
