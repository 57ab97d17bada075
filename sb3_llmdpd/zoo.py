"""Stable-Baselines3's zoo with LLMDPD: ``python -m sb3_llmdpd.zoo train --algo llmdpd``, then ``enjoy``."""

import runpy
import sys
from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any

import gymnasium as gym

from sb3_llmdpd.common.optional_imports import require
from sb3_llmdpd.data.metaworld.tasks import TASKS
from sb3_llmdpd.llmdpd.llmdpd import LLMDPD

if TYPE_CHECKING:
    from optuna import Trial

ALGORITHM = "llmdpd"
"""Value of the zoo's ``--algo``."""

METAWORLD_ENV_ID = "sb3-llmdpd/{task}-v0"
"""Id of each Meta-World task as an environment of the zoo: ``sb3-llmdpd/drawer-open-v0``."""

SCRIPTS = ("train", "enjoy", "record_video")


def register() -> None:
    """Make LLMDPD and the Meta-World tasks known to the zoo's scripts in this process.

    :raises ImportError: when the zoo is not installed.
    """
    zoo, options = require("rl_zoo3", "zoo"), require("rl_zoo3.hyperparams_opt", "zoo")
    zoo.ALGOS[ALGORITHM] = LLMDPD
    options.HYPERPARAMS_SAMPLER[ALGORITHM] = sample_hyperparameters
    options.HYPERPARAMS_CONVERTER[ALGORITHM] = dict  # the sampled values are LLMDPD's own arguments
    manager = require("rl_zoo3.exp_manager", "zoo").ExperimentManager
    if not hasattr(manager.create_callbacks, "__wrapped__"):
        manager.create_callbacks = _beside_one_environment(manager.create_callbacks)
    for task in TASKS:
        env_id = METAWORLD_ENV_ID.format(task=task)
        if env_id not in gym.registry:
            gym.register(env_id, "sb3_llmdpd.data.metaworld.envs:MetaWorldEnv", kwargs={"task": task})


def _beside_one_environment(create_callbacks: Callable[[Any], None]) -> Callable[[Any], None]:
    """Let the zoo make one environment for LLMDPD, which steps none, whatever ``n_envs`` says.

    The zoo divides its frequencies of saving and evaluating by the number of environments, in which other
    algorithms take as many steps at a time; a gradient step is one step beside any number.

    :param create_callbacks: method of the zoo's manager, which comes before it makes environments.
    :return: the same method for managers of LLMDPD and of other algorithms.
    """

    @wraps(create_callbacks)
    def create(manager: Any) -> None:
        if manager.algo == ALGORITHM:
            manager.n_envs = 1
        create_callbacks(manager)

    return create


def sample_hyperparameters(
    trial: "Trial", n_actions: int, n_envs: int, additional_args: dict[str, Any]
) -> dict[str, float]:
    """Suggest arguments of LLMDPD for one trial of the zoo's search (``train --optimize-hyperparameters``).

    The zoo's other three arguments concern other algorithms.

    :param trial: Optuna's trial, which suggests the values.
    :return: values by the name of the argument.
    """
    return {
        "learning_rate": trial.suggest_float("learning_rate", 1e-4, 3e-3, log=True),
        "eta": trial.suggest_float("eta", 0.01, 3.0, log=True),
        "gamma": trial.suggest_float("gamma", 0.95, 0.999),
        "text_dropout": trial.suggest_float("text_dropout", 0.0, 0.5),
        "trajectory_dropout": trial.suggest_float("trajectory_dropout", 0.0, 0.5),
        "prompt_noise": trial.suggest_float("prompt_noise", 0.0, 1.0),
    }


def main() -> None:
    """Run a script of the zoo, which reads the rest of the command line itself."""
    if len(sys.argv) < 2 or sys.argv[1] not in SCRIPTS:
        scripts = ",".join(SCRIPTS)
        sys.exit(f"usage: python -m sb3_llmdpd.zoo {{{scripts}}} [arguments of the zoo's script, or --help]")
    register()
    runpy.run_module(f"rl_zoo3.{sys.argv.pop(1)}", run_name="__main__")


if __name__ == "__main__":
    main()
