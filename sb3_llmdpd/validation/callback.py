"""`HeldOutError`, a callback that measures a training on held-out data and keeps its best model."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback

from sb3_llmdpd.common.files import whole_file
from sb3_llmdpd.llmdpd.llmdpd import LLMDPD
from sb3_llmdpd.validation.errors import PHASES, HeldOutErrors, action_spread, measure
from sb3_llmdpd.validation.held_out import HeldOut
from sb3_llmdpd.validation.probes import N_EPISODES, make_probes

BEST_MODEL, BEST_LABEL = "best_model.zip", "best_model.json"
"""Files of the model with the lowest held-out error, and of what was measured of it."""

_GROUPS = {False: "validation_unseen", True: "validation", None: "validation"}
"""Sections of the log by the groups of `HeldOutErrors.groups`."""


class HeldOutError(BaseCallback):
    """Measures held-out episodes every so many gradient steps and at the end, and keeps the best model.

    It logs ``validation/...``, and ``validation_unseen/...`` of whole tasks that are held out; see `logged`.
    The training is the same to the bit as without it.

    :param held_out: parts of the data; the model must learn from ``held_out.training``.
    :param freq: gradient steps between two measurements.
    :param folder: folder of ``best_model.zip``, the model with the lowest `HeldOutErrors.error` so far, and
        ``best_model.json``, which says its step and its error; None keeps no model.
    :param n_episodes: episodes of a task that are measured.
    :raises ValueError: when ``freq`` is not positive.
    """

    model: LLMDPD

    def __init__(
        self,
        held_out: HeldOut,
        freq: int = 1_000,
        folder: str | Path | None = None,
        n_episodes: int = N_EPISODES,
    ) -> None:
        super().__init__()
        if freq < 1:
            raise ValueError(f"`freq` must be at least one gradient step, got {freq}")
        self.held_out, self.freq, self.n_episodes = held_out, freq, n_episodes
        self.folder = None if folder is None else Path(folder)
        self.last: HeldOutErrors | None = None
        """The last measurement."""
        self.best: dict[str, Any] | None = None
        """The label of the best model so far, see `best_label`."""

    def _init_callback(self) -> None:
        reads_texts, same_goal = self.model.text_encoder is not None, self.model.same_goal
        how = {"reads_texts": reads_texts, "same_goal": same_goal}
        self._probes = make_probes(self.held_out, self.n_episodes, **how)
        self._spread = action_spread(self.held_out.training)

    def _on_training_start(self) -> None:
        is_new = self.num_timesteps == 0
        self.best = None if is_new or self.folder is None else best_label(self.folder)

    def _on_step(self) -> bool:
        if self.num_timesteps % self.freq == 0:
            self._measure()
        return True

    def _on_training_end(self) -> None:
        is_done = self.num_timesteps >= self.model._total_timesteps  # it may have been stopped before
        if is_done and (self.last is None or self.last.step < self.num_timesteps):
            self._measure()

    def _measure(self) -> None:
        self.last = errors = measure(self.model, self._probes, self._spread)
        for name, value in logged(errors).items():
            self.logger.record(name, value)
        self.logger.dump(self.num_timesteps)
        if self.best is None or errors.error < self.best["error"]:
            self._keep(errors)

    def _keep(self, errors: HeldOutErrors) -> None:
        seen, prompt = errors.chosen_by
        tasks = "unseen" if seen is False else "known"
        self.best = {"step": errors.step, "error": errors.error, "prompt": prompt, "tasks": tasks}
        if self.folder is not None:
            self.model.save(self.folder / BEST_MODEL)
            with whole_file(self.folder / BEST_LABEL) as temporary:
                temporary.write_text(json.dumps(self.best, indent=1))


def best_label(folder: Path) -> dict[str, Any] | None:
    """Read what was measured of the best model of a folder.

    :param folder: folder of a training.
    :return: ``step``, the relative ``error``, the ``prompt``, and ``tasks``, ``"unseen"`` or ``"known"``;
        None without such a file.
    :raises ValueError: when the file is damaged.
    """
    path = folder / BEST_LABEL
    if not path.is_file():
        return None
    try:
        label = json.loads(path.read_text())
        return {**label, "step": int(label["step"]), "error": float(label["error"])}
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} does not say which model is the best: move it away") from error


def logged(errors: HeldOutErrors) -> dict[str, float]:
    """Name the means of what was measured as the logger knows them.

    :param errors: the measurement.
    :return: values by name, such as ``"validation/both_error"``; those that are not numbers are left out.
    """
    found: dict[str, float] = {}
    for seen in errors.groups:
        section = _GROUPS[seen]
        for prompt in errors.prompts:
            by_task = list(errors.of(seen, prompt).values())
            rows = [
                np.mean([(one.relative, one.denoising_loss, *one.phases, *one.entries) for one in of_task], 0)
                for of_task in by_task
            ]
            if rows:
                n_entries = len(by_task[0][0].entries)
                names = ["error", "denoising_loss", *(f"error_{phase}" for phase in PHASES)]
                names += [f"error_of_{entry}" for entry in range(n_entries)]
                means = np.mean(rows, axis=0).tolist()
                found |= {f"{section}/{prompt}_{name}": mean for name, mean in zip(names, means, strict=True)}
            ranks = [each for each in errors.values if each.seen is seen and each.prompt == prompt]
            if correlations := [each.correlation for each in ranks if each.correlation is not None]:
                found[f"{section}/{prompt}_q_rank"] = float(np.mean(correlations))
            if ranks:
                found[f"{section}/{prompt}_q_value"] = float(np.mean([each.value for each in ranks]))
                found[f"{section}/{prompt}_q_earned"] = float(np.mean([each.earned for each in ranks]))
            if preferences := [each.prefers for each in ranks if each.prefers is not None]:
                found[f"{section}/{prompt}_q_prefers"] = float(np.mean(preferences))
    return found
