"""`PromptDT`, the closest relative without diffusion: a Decision Transformer that reads the same prompts."""

import io
from collections.abc import Callable, Sequence
from typing import Any, Self

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.utils import get_device, set_random_seed
from torch.nn import functional as F

from sb3_llmdpd import checkpoint
from sb3_llmdpd.baselines.memory import Memory
from sb3_llmdpd.baselines.prompt_dt_network import PromptDTNetwork
from sb3_llmdpd.baselines.segments import SegmentBuffer
from sb3_llmdpd.checkpoint import Checkpoint, FileLike
from sb3_llmdpd.checkpoint.networks import arguments_of, check_room, check_weights
from sb3_llmdpd.checkpoint.values import (
    SPACES,
    from_json,
    no_custom_objects,
    space_to_json,
    spaces_from_json,
    to_json,
)
from sb3_llmdpd.data.episodes import Episode
from sb3_llmdpd.data.loading import DatasetLike, load_dataset
from sb3_llmdpd.evaluation.rollouts import Act
from sb3_llmdpd.llmdpd.llmdpd import STATISTICS_ROWS
from sb3_llmdpd.llmdpd.loss_watch import TrainingDiverged, first_bad_weight
from sb3_llmdpd.llmdpd.prompter import prompt_batch
from sb3_llmdpd.networks.features import features_extractor_named
from sb3_llmdpd.prompts.prompt import Prompt
from sb3_llmdpd.prompts.text_cache import cached_encoder
from sb3_llmdpd.prompts.text_encoders import make_text_encoder
from sb3_llmdpd.prompts.text_table import TextTable

EXTRACTORS = ("flatten", "metaworld_relative")
"""Features extractors of vectors that have nothing to learn."""
_SIZES = ("prompt_window", "context", "token_dim", "n_layers", "n_heads")
"""Arguments that go to the network as they are."""


class PromptDT:
    """Prompt-DT (https://arxiv.org/abs/2206.13499) on the data, the prompts and the statistics of `LLMDPD`.

    A causal transformer predicts actions by mean squared error and acts with a return that it should reach:
    the best of the task's training episodes where the sentence is known, otherwise that of the example,
    otherwise the mean of the tasks. Sizes, context, batch and learning rate are those of its published code.
    Three things differ from there. The prompt is that of `LLMDPD`: a sentence, and states and actions of L
    steps spread over the example. Positions are those in the context, not in the episode. The learning rate
    does not warm up, which took 10,000 steps.

    It is a `Player`: `evaluate_tasks` plays it in the place of a model.

    :param dataset: as for `LLMDPD`, with one-dimensional observations; None for a model that is to be loaded
    :param learning_rate: step size of AdamW
    :param batch_size: segments of ``context`` steps in a gradient step, a multiple of ``prompts_per_batch``
    :param prompts_per_batch: prompts in a batch
    :param context: K, steps that the policy remembers
    :param token_dim: width of the transformer
    :param n_layers: layers of the transformer
    :param n_heads: heads of a layer
    :param prompt_window: L, steps of an example
    :param examples_per_prompt: fewest and most examples of a training prompt; how many is drawn for each
    :param max_grad_norm: largest norm of the gradients, to which larger ones are clipped
    :param text_dropout: share of the prompts whose sentence is replaced by the learned null
    :param trajectory_dropout: the same for the example, independently
    :param pair_dropout: share of the remaining prompts with both that lose their sentence, too
    :param text_encoder: name for `make_text_encoder`; None for a model without text
    :param same_goal: take examples from episodes of the same goal
    :param reward_scale: scale of the returns, see `PromptReplayBuffer`
    :param features_extractor_class: one of ``EXTRACTORS``
    :param seed: seed of network, batches and dropout
    :param device: ``"auto"``, ``"cpu"``, ``"cuda"``, ...
    :raises ValueError: on observations of another kind, an unknown name, or sizes that do not fit together
    """

    observation_space: spaces.Box
    action_space: spaces.Box
    reads_all_steps = False
    network: PromptDTNetwork
    optimizer: th.optim.Optimizer

    def __init__(
        self,
        dataset: DatasetLike | None,
        *,
        learning_rate: float = 1e-4,
        batch_size: int = 16,
        prompts_per_batch: int = 16,
        context: int = 20,
        token_dim: int = 128,
        n_layers: int = 3,
        n_heads: int = 1,
        prompt_window: int = 16,
        examples_per_prompt: tuple[int, int] = (1, 1),
        max_grad_norm: float = 0.25,
        text_dropout: float = 0.1,
        trajectory_dropout: float = 0.1,
        pair_dropout: float = 0.0,
        text_encoder: str | None = "minilm",
        same_goal: bool = False,
        reward_scale: str = "per_task",
        features_extractor_class: str = "flatten",
        seed: int | None = None,
        device: th.device | str = "auto",
    ) -> None:
        self._arguments = arguments_of(locals(), "dataset", "device")
        self.batch_size = batch_size
        self.context = context
        self.prompt_window = prompt_window
        self.max_grad_norm = max_grad_norm
        self.dropout = (text_dropout, trajectory_dropout, pair_dropout)
        self.reward_scale = reward_scale
        self.device = get_device(device)
        self.generator = th.Generator(self.device)
        """Generator of prompt dropout."""
        self.text_table: TextTable | None = None
        self.trusts_encoder = True
        """Whether the text encoder is the caller's choice: false where it is that of a file, see `load`."""
        self.buffer: SegmentBuffer | None = None
        self.targets: dict[str, tuple[float, float]] = {}
        """Result of `_target` for each known sentence."""
        self.return_scale = 1.0
        """Largest return of a training episode; returns are divided by it before the network reads them."""
        if dataset is not None:
            data = load_dataset(dataset)
            self.buffer = SegmentBuffer(
                data,
                context,
                device=self.device,
                prompts_per_batch=prompts_per_batch,
                prompt_window=prompt_window,
                examples_per_prompt=examples_per_prompt,
                same_goal=same_goal,
                reward_scale=reward_scale,
                seed=seed,
                observation_space=data.observation_space,
            )
            self._set_spaces(data.observation_space, data.action_space)
            self._set_up(seed, 0 if text_encoder is None else make_text_encoder(text_encoder).dim)
            self._attach(self.buffer)

    def _set_spaces(self, observation_space: spaces.Space[Any], action_space: spaces.Box) -> None:
        if not isinstance(observation_space, spaces.Box) or len(observation_space.shape) != 1:
            raise ValueError(f"PromptDT reads one vector, Box of shape (n,), got {observation_space}")
        self.observation_space, self.action_space = observation_space, action_space

    def _set_up(self, seed: int | None, text_dim: int) -> None:
        if seed is not None:
            set_random_seed(seed)
            self.generator.manual_seed(seed)
        self.network = self._make_network(text_dim).to(self.device)
        learning_rate = self._arguments["learning_rate"]
        self.optimizer = th.optim.AdamW(self.network.parameters(), lr=learning_rate, weight_decay=1e-4)

    def _make_network(self, text_dim: int) -> PromptDTNetwork:
        name = self._arguments["features_extractor_class"]
        if name not in EXTRACTORS:
            raise ValueError(
                f"`features_extractor_class` of PromptDT must be one of {EXTRACTORS}, got {name!r}"
            )
        sizes = {size: self._arguments[size] for size in _SIZES}
        extractor = features_extractor_named(name)(self.observation_space)
        return PromptDTNetwork(extractor, int(np.prod(self.action_space.shape)), text_dim, **sizes)

    def _attach(self, buffer: SegmentBuffer) -> None:
        """Fit sentences, statistics and returns to the data."""
        name = self._arguments["text_encoder"]
        if name is not None and buffer.texts:
            self.text_table = TextTable.encode(buffer.texts_by_task, cached_encoder(name))
            buffer.set_text_vectors(self.text_table.lookup(buffer.texts))
            self.network.text_normaliser.fit(buffer.text_vectors)
        else:
            buffer.set_text_vectors(np.zeros((len(buffer.texts), self.text_dim), np.float32))
        observations = buffer.some_observations(STATISTICS_ROWS)
        assert isinstance(observations, th.Tensor)  # `_set_spaces` has checked
        self.network.feature_normaliser.fit(self.network.extractor(observations))
        self.return_scale = float(np.abs(buffer.best_returns).max()) or 1.0
        scales = buffer.best_returns.tolist(), buffer.reward_scales.tolist()
        for texts, best, scale in zip(buffer.texts_by_task.values(), *scales, strict=True):
            target = best / self.return_scale, 1.0 / (scale * self.return_scale)
            self.targets |= dict.fromkeys(texts, target)

    def learn(self, n_steps: int, on_step: Callable[[th.Tensor], object] | None = None) -> Self:
        """Train on the data set.

        :param n_steps: gradient steps
        :param on_step: called after each step with its loss, on the device
        :return: the model itself
        :raises ValueError: when there is no data set, or ``prompts_per_batch`` does not divide ``batch_size``
        :raises TrainingDiverged: when a weight is no longer a number
        """
        if self.buffer is None:
            raise ValueError("a PromptDT without data cannot learn: make one with PromptDT(dataset)")
        self.network.train()
        for _ in range(n_steps):
            loss = self.loss()
            self.optimizer.zero_grad()
            loss.backward()
            th.nn.utils.clip_grad_norm_(self.network.parameters(), self.max_grad_norm)
            self.optimizer.step()
            if on_step is not None:
                on_step(loss.detach())
        self.network.eval()
        bad = first_bad_weight(self.network.state_dict())
        if bad is not None:
            raise TrainingDiverged(
                f"the training has diverged: the weight {bad!r} is not finite; lower `learning_rate`"
            )
        return self

    def loss(self) -> th.Tensor:
        """Compute the mean squared error of all actions in the segments of a new batch.

        :return: scalar
        """
        assert self.buffer is not None  # `learn` has checked
        segments, prompts = self.buffer.sample_segments(self.batch_size)
        draws = th.rand((2, len(prompts.has_text)), generator=self.generator, device=self.device)
        prompts = prompts.dropped_at_random(draws, *self.dropout)
        segments = segments._replace(returns_to_go=segments.returns_to_go / self.return_scale)
        predicted = self.network(segments, prompts)
        errors = F.mse_loss(predicted, segments.actions, reduction="none").mean(dim=-1)  # (B, K)
        return (errors * segments.is_step).sum() / segments.is_step.sum()

    def make_act(self, prompts: Sequence[Prompt], *, noise_seed: int = 0, deterministic: bool = True) -> Act:
        """Get ready for a block of episodes, see `Player.make_act`; there is no noise.

        :param prompts: a prompt for each row of the block
        :param noise_seed: ignored
        :param deterministic: ignored
        :return: an object that acts, and remembers the last steps of each row
        :raises ValueError: when an example does not fit, or a sentence is given to a model without text
        """
        self.network.eval()
        batch = prompt_batch(prompts, self, self.text_table)
        targets = [self._target(prompt) for prompt in prompts]
        return Memory(self.network, self.action_space, self.context, batch, targets)

    @property
    def text_dim(self) -> int:
        """Size of a sentence's vector; 0 for a model without text."""
        return len(self.network.text_normaliser.mean)

    def _target(self, prompt: Prompt) -> tuple[float, float]:
        """Return to reach, as the network is told it, and the part that a raw reward of 1 takes away."""
        if prompt.text in self.targets:
            return self.targets[prompt.text]
        if isinstance(prompt.trajectory, Episode):
            rewards = prompt.trajectory.rewards.astype(np.float64)
            size = float(np.sqrt(np.square(rewards).mean())) if self.reward_scale == "per_task" else 1.0
            unit = 1.0 / ((size or 1.0) * self.return_scale)
            return float(rewards.sum()) * unit, unit
        known = np.array(list(self.targets.values()) or [(1.0, 1.0 / self.return_scale)])
        return float(known[:, 0].mean()), float(known[:, 1].mean())

    def save(self, path: FileLike) -> None:
        """Write all that acting needs, without pickle.

        :param path: as for `LLMDPD.save`
        """
        table = self.text_table
        data = {
            "network": "PromptDT",
            "arguments": to_json(self._arguments),
            **{name: space_to_json(getattr(self, name)) for name in SPACES},
            "text_table": None if table is None else table.to_dict(),
            "targets": self.targets,
            "return_scale": self.return_scale,
        }
        tensors = {"network": self.network.state_dict()}
        if table is not None:
            tensors["text_table"] = {name: th.tensor(array) for name, array in table.tensors().items()}
        checkpoint.write(Checkpoint(data, tensors), path)

    @classmethod
    def load(cls, path: FileLike, device: th.device | str = "auto", trust_encoder: bool = False) -> Self:
        """Read a model that acts. Nothing in the file is executed, and nothing but the file is read.

        :param path: path or file that `save` wrote
        :param device: target device
        :param trust_encoder: as for `LLMDPD.load`
        :return: the model, without data
        :raises FileNotFoundError: when there is no such file
        :raises ValueError: when the file is damaged or foreign
        """
        saved, shown = checkpoint.read(path), checkpoint.shown_path(path)
        if saved.data.get("network") != "PromptDT":
            raise ValueError(f"{shown} holds no PromptDT; LLMDPD.load reads the method's own models")
        try:
            arguments = from_json(saved.data["arguments"], "arguments", no_custom_objects)
            model = cls(None, device=device, **arguments)
            model.trusts_encoder = trust_encoder
            if saved.data["text_table"] is not None:
                arrays = {name: tensor.numpy() for name, tensor in saved.tensors["text_table"].items()}
                model.text_table = TextTable.from_parts(
                    saved.data["text_table"], arrays, trusted=trust_encoder
                )
            targets = saved.data["targets"].items()
            model.targets = {text: (float(goal), float(unit)) for text, (goal, unit) in targets}
            model.return_scale = float(saved.data["return_scale"])
            of_file: Any = spaces_from_json(saved.data)
            model._set_spaces(**of_file)
            weights = saved.tensors["network"]
            text_dim = len(weights["text_normaliser.mean"])
            if model.text_table is not None and model.text_table.dim != text_dim:
                raise ValueError(f"sentence vectors of size {model.text_table.dim}, read as {text_dim}")
            check_room(lambda: model._make_network(text_dim), weights)
            model._set_up(None, text_dim)
            check_weights(model.network.state_dict(), weights)
            model.network.load_state_dict(weights)
        except Exception as error:  # values of the wrong kind make networks raise errors of a dozen kinds
            raise ValueError(f"{shown} describes no PromptDT ({type(error).__name__}: {error})") from error
        return model

    def __reduce__(self) -> Any:
        file = io.BytesIO()
        self.save(file)
        return type(self).load, (file, "cpu", self.trusts_encoder)
