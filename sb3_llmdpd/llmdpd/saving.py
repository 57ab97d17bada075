"""Saving and loading a model without pickle: what a model file keeps, and how a model is made of it again."""

import copy
import difflib
import json
from collections.abc import Callable, Iterable
from typing import Any, Self

import numpy as np
import torch as th
from stable_baselines3.common.type_aliases import GymEnv, TensorDict
from stable_baselines3.common.utils import get_device, get_system_info

from sb3_llmdpd import checkpoint
from sb3_llmdpd.checkpoint import Checkpoint, FileLike
from sb3_llmdpd.checkpoint.networks import check_weights, uncompiled
from sb3_llmdpd.checkpoint.optimizers import optimizer_to_parts, restore_optimizer
from sb3_llmdpd.checkpoint.spaces import space_from_json, space_to_json
from sb3_llmdpd.checkpoint.values import CustomObjects, from_json, to_json
from sb3_llmdpd.checkpoint.values import custom_objects as answers_from
from sb3_llmdpd.data.loading import DatasetLike
from sb3_llmdpd.envs.dataset_env import DatasetEnv
from sb3_llmdpd.llmdpd.arguments import SAVED_ARGUMENTS
from sb3_llmdpd.llmdpd.callback_counters import Counters, counters_from_json, counters_of, counters_to_json
from sb3_llmdpd.llmdpd.policies import LLMDPDPolicy
from sb3_llmdpd.llmdpd.training_data import TrainingData
from sb3_llmdpd.prompts.prompt import Prompt
from sb3_llmdpd.prompts.text_table import TextTable
from sb3_llmdpd.replay.buffer import PromptReplayBuffer

COUNTERS = ("num_timesteps", "_total_timesteps", "_n_updates", "_current_progress_remaining", "_metric_steps")
GENERATORS = ("generator", "action_generator")
OPTIMIZERS = ("actor.optimizer", "critic.optimizer")
SPACES = ("observation_space", "action_space")
_SHAPING = ("policy_kwargs", "critic_objective")
"""Arguments that say which networks there are."""


class SavedWithoutPickle(TrainingData):
    """The saving half of `LLMDPD`."""

    _setup_schedules: Callable[[], None]
    _make_policy: Callable[[], LLMDPDPolicy]

    def save(
        self, path: FileLike, exclude: Iterable[str] | None = None, include: Iterable[str] | None = None
    ) -> None:
        """Write the model with all that acting and going on with the training need; the data set stays outside.

        :param path: a path (``.zip`` is added where there is no suffix), or a binary file open for writing. A file is
            replaced whole or not at all.
        :param exclude: what to leave out: names of arguments, which then have their defaults after loading, and of
            optimisers, ``"actor.optimizer"`` and ``"critic.optimizer"``, which then start anew.
        :param include: what to keep although ``exclude`` names it.
        :raises ValueError: on a name that a model file does not have.
        :raises TrainingDiverged: when the weights are no longer sane; the file of before then remains.
        :raises OSError: when the place cannot be written to, or the disk is full; the file of before then remains.
        """
        left_out = set(exclude or ()) - set(include or ())
        unknown = (set(exclude or ()) | set(include or ())) - {*SAVED_ARGUMENTS, *OPTIMIZERS}
        if unknown:
            raise ValueError(
                f"a model file has no part {min(unknown)!r} that `exclude` or `include` could name;"
                f" known: {', '.join((*OPTIMIZERS, *SAVED_ARGUMENTS))}"
            )
        self.check_health()
        saved = Checkpoint(
            data={
                "arguments": {
                    name: to_json(getattr(self, name)) for name in SAVED_ARGUMENTS if name not in left_out
                },
                "policy": next(
                    (name for name, known in self.policy_aliases.items() if known is self.policy_class), None
                ),
                "policy_class": f"{self.policy_class.__module__}.{self.policy_class.__qualname__}",
                **{name: space_to_json(getattr(self, name)) for name in SPACES},
                "counters": {name.lstrip("_"): getattr(self, name) for name in COUNTERS},
                "callbacks": counters_to_json(self._counters()),
                "only_task": None if self._only_task is None else [prompt.text for prompt in self._only_task],
                "text_table": None if self.text_table is None else self.text_table.to_dict(),
                "buffer_generator": self._buffer_state(),
                "optimizers": {},
            },
            tensors={
                "policy": uncompiled(self.policy).state_dict(),
                "generators": {name: getattr(self, name).get_state() for name in GENERATORS},
                "metrics": {name: th.as_tensor(total) for name, total in self._metric_sums.items()},
            },
        )
        if self.text_table is not None:
            saved.tensors["text_table"] = {
                name: th.tensor(array) for name, array in self.text_table.tensors().items()
            }
        for name in OPTIMIZERS:
            if name not in left_out:
                saved.data["optimizers"][name], saved.tensors[name] = optimizer_to_parts(
                    self._optimizer(name)
                )
        self.last_saved = checkpoint.write(saved, path) or self.last_saved

    @classmethod
    def load(
        cls,
        path: FileLike,
        env: GymEnv | str | None = None,
        device: th.device | str = "auto",
        custom_objects: dict[str, Any] | None = None,
        print_system_info: bool = False,
        force_reset: bool = True,
        dataset: DatasetLike | PromptReplayBuffer | None = None,
        **overrides: Any,
    ) -> Self:
        """Read a model. Nothing in the file is executed.

        :param path: of `save`.
        :param env: as in `set_env`, for callbacks that evaluate.
        :param device: where to.
        :param custom_objects: classes and functions of your own that the model was built with, by argument name; in place of
            other arguments, too.
        :param print_system_info: whether to print what the machine that wrote the file was, and what this one is.
        :param force_reset: as in `set_env`.
        :param dataset: to go on with the training; the statistics that standardise observations stay those of before.
        :param overrides: arguments of the constructor to change, e.g. ``learning_rate=1e-4``.
        :return: the model.
        :raises FileNotFoundError: when there is no such file.
        :raises TypeError: on an unknown argument.
        :raises ValueError: when the file is damaged or foreign, or does not fit ``env`` or ``dataset``.
        """
        _refuse_unknown(overrides)
        saved = checkpoint.read(path)
        if print_system_info:
            print("== CURRENT SYSTEM INFO ==")  # noqa: T201 - asked for, in SB3's words
            get_system_info()
            print("== SAVED MODEL SYSTEM INFO ==", saved.system_info, sep="\n")  # noqa: T201
        device = get_device(device)
        given = {
            name: value for name, value in (custom_objects or {}).items() if name in SAVED_ARGUMENTS
        } | overrides
        try:
            model = cls._from_file(
                saved, device, given, answers_from({**(custom_objects or {}), **overrides})
            )
        except ValueError:
            raise
        except Exception as error:  # values of the wrong kind make networks raise errors of a dozen kinds
            shown = checkpoint.shown_path(path)
            raise ValueError(
                f"{shown} describes no model that can be built ({type(error).__name__}: {error})"
            ) from error
        model.last_saved = checkpoint.existing(path)
        if env is not None:
            model.set_env(env, force_reset)
        if dataset is not None:
            model.set_dataset(dataset)
        return model

    @classmethod
    def _from_file(
        cls, saved: Checkpoint, device: th.device | str, given: dict[str, Any], custom: CustomObjects
    ) -> Self:
        """Build the whole model that a file describes, but for what ``given`` says instead."""
        data = saved.data
        model = cls(
            data["policy"] or custom("policy", str(data["policy_class"])),
            DatasetEnv(*(space_from_json(data[name]) for name in SPACES)),
            device=device,
            _init_setup_model=False,
            **_arguments(data["arguments"], given, custom),
        )
        if data["text_table"] is not None:
            arrays = {name: tensor.numpy() for name, tensor in saved.tensors["text_table"].items()}
            model.text_table = TextTable.from_parts(data["text_table"], arrays)
        if not _names_custom_objects(data):  # the user's own networks may need more than shapes to be built
            model._setup_schedules()
            try:
                check_weights(model._make_policy, saved.tensors["policy"])
            except ValueError as error:
                stored = {
                    name: data["arguments"].get(name, "its default") for name in _SHAPING if name in given
                }
                if not stored:
                    raise
                made = " and ".join(f"{name}={value}" for name, value in stored.items())
                raise ValueError(f"{error}: the model was made with {made}, leave that as it was") from error
        model._setup_model()
        model._restore(saved)
        return model

    def _restore(self, saved: Checkpoint) -> None:
        """Bring networks, optimisers, counters and generators to where they were."""
        data = saved.data
        self._restore_networks(saved)
        for name in COUNTERS:
            count = data["counters"][name.lstrip("_")]
            if not isinstance(count, int | float) or not count >= 0:
                raise ValueError(f"the model file counts {count!r} for {name!r}, which is no count")
            setattr(self, name, count)
        self._to_count_on = counters_from_json(data["callbacks"])
        self._metric_sums = {
            name: total.reshape(()).to(self.device) for name, total in saved.tensors["metrics"].items()
        }
        if self.text_table is not None and self.text_table.dim != self.policy.text_dim:
            raise ValueError(
                f"the model file has sentence vectors of size {self.text_table.dim} for a model of {self.policy.text_dim}"
            )
        if data["only_task"] is not None:
            self._only_task = [Prompt(text=text) for text in data["only_task"]]
            self.set_task()
        if data["buffer_generator"] is not None:
            np.random.default_rng().bit_generator.state = data[
                "buffer_generator"
            ]  # which refuses what is none
        self._saved_buffer_state = data["buffer_generator"]
        for name in GENERATORS:
            generator, state = getattr(self, name), saved.tensors["generators"][name]
            if len(state) == len(generator.get_state()):  # a GPU's state means nothing to a CPU
                generator.set_state(state)

    def _buffer_state(self) -> dict[str, Any] | None:
        """Where the batches are: those of the buffer, or of the buffer that a loaded model had."""
        if self.replay_buffer is None:
            return self._saved_buffer_state
        return dict(self.replay_buffer.generator.bit_generator.state)

    def _counters(self) -> list[Counters]:
        """What callbacks have counted: those that are at work, those of a loaded model, or those of the last `learn`."""
        return counters_of(self._callback) or self._to_count_on or self._counted

    # Parameters ---------------------------------------------------------------------------------------------------------

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        """What SB3's `get_parameters` and `set_parameters` speak of."""
        return ["policy", *OPTIMIZERS], []

    def set_parameters(
        self,
        load_path_or_dict: FileLike | TensorDict,
        exact_match: bool = True,
        device: th.device | str = "auto",
    ) -> None:
        """Take weights and states of optimisers, all of them or none.

        :param load_path_or_dict: a model file, or what SB3's `get_parameters` gives.
        :param exact_match: whether all parts must be given.
        :param device: ignored: the weights go where the model is.
        :raises ValueError: when parts are missing or unknown, or those of a file do not fit; the model then is as it was.
        :raises RuntimeError: when weights of a dict do not fit; the model then is as it was.
        """
        before = copy.deepcopy(self.get_parameters())
        try:
            if isinstance(load_path_or_dict, dict):
                super().set_parameters(load_path_or_dict, exact_match, device)
            else:
                self._set_from_file(checkpoint.read(load_path_or_dict), exact_match)
        except Exception as error:
            super().set_parameters(before)  # type: ignore[arg-type]  # SB3's own answer
            if isinstance(load_path_or_dict, dict) or isinstance(error, ValueError | FileNotFoundError):
                raise
            raise ValueError(
                f"the parameters do not fit the model ({type(error).__name__}: {error})"
            ) from error

    def _set_from_file(self, saved: Checkpoint, exact_match: bool) -> None:
        missing = set(OPTIMIZERS) - set(saved.data["optimizers"])
        if missing and exact_match:
            raise ValueError(f"the model file lacks {min(missing)!r}, which exact_match=True asks for")
        self._restore_networks(saved)

    def _restore_networks(self, saved: Checkpoint) -> None:
        for name, groups in saved.data["optimizers"].items():
            restore_optimizer(self._optimizer(name), groups, saved.tensors[name])
        uncompiled(self.policy).load_state_dict(saved.tensors["policy"])

    def _optimizer(self, name: str) -> th.optim.Optimizer:
        if name not in OPTIMIZERS:
            raise ValueError(f"a model has no optimiser {name!r}")
        network = self.policy.get_submodule(name.removesuffix(".optimizer"))
        assert isinstance(network.optimizer, th.optim.Optimizer)
        return network.optimizer


def _refuse_unknown(overrides: dict[str, Any]) -> None:
    unknown = set(overrides) - set(SAVED_ARGUMENTS)
    if unknown:
        name = min(unknown)
        nearest = difflib.get_close_matches(name, SAVED_ARGUMENTS, n=1)
        raise TypeError(
            f"LLMDPD.load got an unknown argument {name!r}{f', did you mean {nearest[0]!r}?' if nearest else '.'}"
            f" Known: {', '.join(SAVED_ARGUMENTS)}"
        )


def _arguments(saved: dict[str, Any], given: dict[str, Any], custom: CustomObjects) -> dict[str, Any]:
    """Arguments of the constructor: those that are given, and of the others those that a file holds."""
    newer = set(saved) - set(SAVED_ARGUMENTS)
    if newer:
        raise ValueError(
            f"the model file holds arguments that this version of sb3_llmdpd does not know: {', '.join(sorted(newer))};"
            " install the version that wrote it"
        )
    return {
        name: from_json(value, name, custom) for name, value in saved.items() if name not in given
    } | given


def _names_custom_objects(data: dict[str, Any]) -> bool:
    return data["policy"] is None or '":custom:"' in json.dumps(data["arguments"])
