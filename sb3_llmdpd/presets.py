"""Settings of `LLMDPD` by name: ``LLMDPD("MlpPolicy", dataset=..., **presets.PAPER)``.

The defaults of `LLMDPD` are what tasks held out for tuning chose. A preset holds the arguments that differ.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

PAPER: Mapping[str, Any] = MappingProxyType(
    {
        "learning_rate": 3e-4,
        "examples_per_prompt": (1, 1),
        "eta": 1.0,
        "policy_objective": "diffusion_ql",
        "max_grad_norm": 1.0,
        "text_dropout": 0.1,
        "trajectory_dropout": 0.1,
        "pair_dropout": 0.0,
        "return_weight": 0.0,
        "policy_kwargs": {
            "conditioning": "concat",
            "prompt_window": 16,
            "layer_norm": False,
            "step_distribution": "uniform",
        },
    }
)
"""The paper's: the example as one vector beside the state, and the Q term through the whole chain."""

PRESETS: Mapping[str, Mapping[str, Any]] = MappingProxyType({"paper": PAPER})
"""Presets by the names that the command line knows them by."""
