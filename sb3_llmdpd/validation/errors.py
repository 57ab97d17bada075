"""Measures how far a model's actions are from those of held-out episodes, and how its critic ranks them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import scipy
import torch as th

from sb3_llmdpd.data.episodes import Episode, OfflineDataset
from sb3_llmdpd.data.spaces import scale_actions
from sb3_llmdpd.llmdpd.llmdpd import LLMDPD
from sb3_llmdpd.prompts.alignment import align, alignment_named
from sb3_llmdpd.prompts.prompt import Prompt, take
from sb3_llmdpd.type_aliases import PromptEncoding
from sb3_llmdpd.validation.held_out import SEED
from sb3_llmdpd.validation.probes import PROMPTS, Probe

PHASES = ("begin", "middle", "end")
"""Thirds of an episode, up to shortly after its first success."""

CHOSEN_BY = ("both", "example", "sentence", "none")
"""Prompts by which checkpoints are compared: the first that was measured."""

SMALLEST_SPREAD = 1e-6
"""Standard deviation below which an entry of the actions is constant, in its own units."""


@dataclass(frozen=True)
class EpisodeError:
    """Errors of the deterministic actions in the states of one episode, under one prompt.

    :param task: task of the episode.
    :param seen: True if the model learned from the task; None if unknown.
    :param source: name of the episode.
    :param prompt: one of `PROMPTS`.
    :param entries: (action_dim,), root mean square error of each entry, in the action's units.
    :param relative: mean over the entries of their error divided by their standard deviation in the data: 0
        is perfect, and whoever always plays the mean action gets about 1. Constant entries do not count.
    :param phases: the same for each of `PHASES`.
    :param denoising_loss: mean square error of the predicted noise in the episode's actions, a stand-in for
        their likelihood: 0 is perfect, and whoever predicts zeros gets 1.
    """

    task: str
    seen: bool | None
    source: str
    prompt: str
    entries: tuple[float, ...]
    relative: float
    phases: tuple[float, float, float]
    denoising_loss: float


@dataclass(frozen=True)
class ValueRank:
    """Agreement of the critic with the returns that were logged, in one task.

    :param task: the task.
    :param seen: True if the model learned from it; None if unknown.
    :param prompt: one of `PROMPTS`.
    :param correlation: Spearman's rank correlation, in [-1, 1], of the critic's values of logged states and
        actions with what was earned from there on, see `returns_to_go`; None where one of them is constant.
    :param value: mean value, in scaled rewards.
    :param earned: mean of what was earned, in the same unit: a critic that has learned gives it as its value.
        A task's scale is that of its held-out episodes here.
    :param prefers: share of the states of good episodes in which the critic values the logged action above
        one of another episode: 1/2 is chance; below it improvement by the critic leads away from the data.
        None where there is no other episode, or no good one.
    """

    task: str
    seen: bool | None
    prompt: str
    correlation: float | None
    value: float
    earned: float
    prefers: float | None


@dataclass(frozen=True)
class HeldOutErrors:
    """All that was measured of one model.

    :param step: gradient steps that the model was trained for.
    :param episodes: errors, an entry for each good episode under each prompt.
    :param values: an entry for each task under each prompt; empty where no critic is trained.
    """

    step: int
    episodes: tuple[EpisodeError, ...]
    values: tuple[ValueRank, ...]

    @property
    def prompts(self) -> tuple[str, ...]:
        """The prompts that were measured, in the order of `PROMPTS`."""
        measured = {episode.prompt for episode in self.episodes}
        return tuple(prompt for prompt in PROMPTS if prompt in measured)

    @property
    def groups(self) -> tuple[bool | None, ...]:
        """The groups of tasks: not learned from (False), learned from (True), unknown (None)."""
        measured = {episode.seen for episode in self.episodes}
        return tuple(seen for seen in (False, True, None) if seen in measured)

    def of(self, seen: bool | None, prompt: str) -> dict[str, list[EpisodeError]]:
        """Select the episodes of a group of tasks under a prompt, by task."""
        by_task: dict[str, list[EpisodeError]] = {}
        for episode in self.episodes:
            if episode.seen is seen and episode.prompt == prompt:
                by_task.setdefault(episode.task, []).append(episode)
        return by_task

    def relative_error(self, seen: bool | None, prompt: str) -> float:
        """Compute the mean of the tasks' mean relative errors; NaN without any."""
        by_task = self.of(seen, prompt).values()
        means = [np.mean([episode.relative for episode in episodes]) for episodes in by_task]
        return float(np.mean(means)) if means else float("nan")

    @property
    def chosen_by(self) -> tuple[bool | None, str]:
        """The group and the prompt by which checkpoints are compared: tasks not learned from, if any."""
        return self.groups[0], next(prompt for prompt in CHOSEN_BY if prompt in self.prompts)

    @property
    def error(self) -> float:
        """The number by which checkpoints are compared: mean relative error under `chosen_by`."""
        return self.relative_error(*self.chosen_by)


def measure(model: LLMDPD, probes: Sequence[Probe], spread: np.ndarray, seed: int = SEED) -> HeldOutErrors:
    """Ask a model what it would do in the states of the probes.

    Noise and diffusion steps are drawn from the seed alone: models and checkpoints compare, and the training
    draws the same numbers as without.

    :param model: the model; its averaged actor and critic are asked.
    :param probes: probes of `make_probes`.
    :param spread: (action_dim,), standard deviation of each entry of the actions, see `action_spread`.
    :param seed: seed of the noise.
    :return: what was measured.
    :raises ValueError: when a probe does not fit the model.
    """
    errors: list[EpisodeError] = []
    values: dict[tuple[str, bool | None, str], list[_Valued]] = {}
    noise = np.random.default_rng(seed)
    scales = _reward_scales(probes) if model.reward_scale == "per_task" else {}
    for number, probe in enumerate(probes):
        asked = _Asked(model, probe, noise)
        # What the critic values: the logged actions, and beside those of a good episode another's.
        other = probes[(number + 1) % len(probes)]
        valued = [asked.scaled]
        if model.eta > 0 and probe.is_good and other is not probe:
            valued.append(asked.scaled_actions(other))
        earned = asked.returns / scales.get(probe.episode.task, 1.0)
        for name, given in probe.prompts.items():
            prompt = asked.in_scene(given)
            if probe.is_good:
                errors.append(asked.error(name, prompt, spread))
            if model.eta > 0:
                key = (probe.episode.task, probe.seen, name)
                own, *others = asked.values(prompt, valued)
                values.setdefault(key, []).append(_Valued(own, earned, *others))
    ranks = [_rank(key, states) for key, states in values.items()]
    return HeldOutErrors(model.num_timesteps, tuple(errors), tuple(ranks))


class _Valued(NamedTuple):
    """States of one episode, as the critic values them; each entry is (n,)."""

    values: np.ndarray
    earned: np.ndarray
    """Discounted returns, in scaled rewards."""
    of_others: np.ndarray | None = None
    """Values of actions of another episode in the same states; None of a failed episode."""


def _rank(key: tuple[str, bool | None, str], states: Sequence[_Valued]) -> ValueRank:
    values, earned = (np.concatenate([one[part] for one in states]) for part in (0, 1))
    varies = np.ptp(values) > 0 and np.ptp(earned) > 0
    correlation = float(scipy.stats.spearmanr(values, earned).statistic) if varies else None
    wins = [one.values > one.of_others for one in states if one.of_others is not None]
    prefers = float(np.concatenate(wins).mean()) if wins else None
    return ValueRank(*key, correlation, float(values.mean()), float(earned.mean()), prefers)


def _reward_scales(probes: Sequence[Probe]) -> dict[str, float]:
    """Measure the root mean square reward of each task, as the buffer does of its own episodes."""
    rewards: dict[str, list[np.ndarray]] = {}
    for probe in probes:
        rewards.setdefault(probe.episode.task, []).append(probe.episode.rewards)
    sizes = {task: float(np.sqrt(np.square(np.concatenate(of)).mean())) for task, of in rewards.items()}
    return {task: size if size > 0 else 1.0 for task, size in sizes.items()}


class _Asked:
    """One probe as tensors of the model, with the noise in its actions.

    :param model: the model.
    :param probe: the probe.
    :param noise: source of the seed of its noise.
    """

    def __init__(self, model: LLMDPD, probe: Probe, noise: np.random.Generator) -> None:
        self.model, self.probe = model, probe
        episode, steps = probe.episode, probe.steps
        self.observations: Any = take(episode.observations, steps)
        self.actions = episode.actions[steps].reshape(len(steps), -1)
        self.returns = returns_to_go(episode, model.gamma)[steps]
        # On the CPU, so that the noise is the same for models on any device.
        generator = th.Generator().manual_seed(int(noise.integers(2**31)))
        process = model.policy.actor_target.process
        self.scaled = self.scaled_actions(probe)
        self.noise = th.randn(self.scaled.shape, generator=generator).to(model.device)
        self.times = process.draw_times(self.scaled.shape[:2], generator, evenly=True).to(model.device)

    def scaled_actions(self, probe: Probe) -> th.Tensor:
        """Give the actions of a probe as the networks see them, (1, n, action_dim)."""
        space: Any = self.model.action_space
        actions = probe.episode.actions[probe.steps].reshape(len(probe.steps), -1)
        scaled = scale_actions(actions, space.low.reshape(-1), space.high.reshape(-1)).astype(np.float32)
        return th.as_tensor(scaled, device=self.model.device).unsqueeze(0)

    def error(self, name: str, prompt: Prompt, spread: np.ndarray) -> EpisodeError:
        """Compare the actions under a prompt with those of the episode."""
        acted, _ = self.model.predict(self.observations, deterministic=True, prompt=prompt)
        squares = np.square(acted.reshape(len(acted), -1) - self.actions)  # (n, action_dim)
        episode = self.probe.episode
        return EpisodeError(
            episode.task,
            self.probe.seen,
            episode.source,
            name,
            entries=tuple(np.sqrt(squares.mean(axis=0)).tolist()),
            relative=_relative(squares, spread),
            phases=tuple(_relative(part, spread) for part in np.split(squares, 3)),  # type: ignore[arg-type]
            denoising_loss=self._denoising_loss(prompt),
        )

    def values(self, prompt: Prompt, actions: Sequence[th.Tensor]) -> list[np.ndarray]:
        """Value several choices of actions in the states under a prompt, each (1, n, action_dim): (n,)."""
        features, encoding = self._encoded(prompt)
        critic = self.model.policy.critic_target
        with th.no_grad():
            values = [critic(features, encoding, chosen).min(dim=0).values[0] for chosen in actions]
        return [each.float().cpu().numpy() for each in values]

    def _denoising_loss(self, prompt: Prompt) -> float:
        actor = self.model.policy.actor_target
        features, encoding = self._encoded(prompt)
        with th.no_grad():
            condition = actor.condition(features, encoding)
            loss, _ = actor.cloning_loss(condition, self.scaled, self.noise, self.times)
        return float(loss)

    def _encoded(self, prompt: Prompt) -> tuple[th.Tensor, PromptEncoding]:
        """Encode the states, (1, n, features_dim), and the prompt."""
        tensor, _ = self.model.policy.obs_to_tensor(self.observations)
        with th.no_grad():
            features = self.model.policy.actor_target.encode_observations(tensor)
        return features.unsqueeze(0), self.model.prompter.encode([prompt])

    def in_scene(self, prompt: Prompt) -> Prompt:
        """Move the examples into the scene that the episode begins with, where the model does that."""
        if self.model.alignment is None:
            return prompt
        begin = take(self.probe.episode.observations, 0)
        alignment = alignment_named(self.model.alignment)
        (aligned,), _ = align(alignment, [prompt], begin, self.model.observation_space, None, None)
        return aligned


def _relative(squares: np.ndarray, spread: np.ndarray) -> float:
    varies = spread > SMALLEST_SPREAD
    return float((np.sqrt(squares.mean(axis=0))[varies] / spread[varies]).mean())


def action_spread(data: OfflineDataset) -> np.ndarray:
    """Compute the standard deviation of each entry of the actions, (action_dim,), in the action's units."""
    n, total, squares = 0, 0.0, 0.0
    for episode in data.episodes:  # one at a time: they may lie in a file
        actions = episode.actions.reshape(len(episode), -1).astype(np.float64)
        n, total, squares = n + len(actions), total + actions.sum(axis=0), squares + (actions**2).sum(axis=0)
    return np.sqrt(np.maximum(squares / n - (total / n) ** 2, 0.0))


def returns_to_go(episode: Episode, gamma: float) -> np.ndarray:
    """Sum the discounted rewards from each step on.

    The last reward of an episode that was cut off goes on for ever, as in `lasting_return`: the critic, too,
    learns that a time limit ends nothing.

    :param episode: episode of T steps.
    :param gamma: discount, below 1.
    :return: (T,), in units of the raw rewards.
    """
    rewards = episode.rewards.astype(np.float64)
    after = 0.0 if episode.terminated or gamma >= 1.0 else rewards[-1] / (1.0 - gamma)
    returns = np.empty(len(rewards))
    for step in reversed(range(len(rewards))):
        returns[step] = after = rewards[step] + gamma * after
    return returns
