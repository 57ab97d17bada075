"""Evaluation of prompted models with the controls that a number needs beside it."""

from sb3_llmdpd.evaluation.conditions import (
    CONDITIONS,
    CONTROLS,
    Cell,
    Condition,
    make_cells,
    shared_scene_cells,
)
from sb3_llmdpd.evaluation.gymnasium_suite import GymnasiumSuite
from sb3_llmdpd.evaluation.metaworld_suite import MetaWorldSuite
from sb3_llmdpd.evaluation.players import Player
from sb3_llmdpd.evaluation.suite import Suite
from sb3_llmdpd.evaluation.tasks import CellResult, evaluate_tasks, prompts_of

__all__ = [
    "CONDITIONS",
    "CONTROLS",
    "Cell",
    "CellResult",
    "Condition",
    "GymnasiumSuite",
    "MetaWorldSuite",
    "Player",
    "Suite",
    "evaluate_tasks",
    "make_cells",
    "prompts_of",
    "shared_scene_cells",
]
