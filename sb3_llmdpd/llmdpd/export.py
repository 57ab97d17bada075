"""Export of the acting network as a program, of PyTorch or ONNX, which runs without this package."""

import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch as th
from torch import nn

from sb3_llmdpd.common.files import whole_file
from sb3_llmdpd.common.optional_imports import require
from sb3_llmdpd.data.spaces import scale_actions, unscale_actions
from sb3_llmdpd.llmdpd.actor import PromptedActor, count_rows
from sb3_llmdpd.networks.attention import N_RETRIEVED
from sb3_llmdpd.type_aliases import PromptBatch, PromptEncoding, TensorObs, to_device
from sb3_llmdpd.version import __version__

if TYPE_CHECKING:
    from sb3_llmdpd.llmdpd.llmdpd import LLMDPD

ABOUT = "about.json"
"""Name of the extra file of a ``.pt2`` that says what goes in and comes out."""

_N_ROWS, _LENGTHS = 3, (5, 6)
"""Observations, and steps of the examples, that a program is traced with; it takes any numbers."""


@dataclass(frozen=True)
class ProgramInput:
    """One input of a program.

    :param value: a tensor of its shape and type, or a dict of such tensors.
    :param free: name of each axis that may have any size.
    :param meaning: unit and purpose, for a reader.
    """

    value: Any
    free: Mapping[int, str]
    meaning: str

    def leaves(self, name: str) -> dict[str, str]:
        """Describe each of its tensors by name, that of the input and of its key: shape, type and meaning."""
        parts = self.value if isinstance(self.value, dict) else {"": self.value}
        return {
            f"{name}.{key}" if key else name: f"{self._shape(part)} {_type(part)}: {self.meaning}"
            for key, part in parts.items()
        }

    def _shape(self, part: th.Tensor) -> str:
        sizes = [str(self.free.get(axis, size)) for axis, size in enumerate(part.shape)]
        return f"({', '.join(sizes)}{',' * (len(sizes) == 1)})"

    def axes(self, make: Callable[[str], Any]) -> Any:
        """Make something of the name of each free axis, in the structure of the value."""
        of_one = {axis: make(name) for axis, name in self.free.items()}
        return dict.fromkeys(self.value, of_one) if isinstance(self.value, dict) else of_one


class ActingNetwork(nn.Module):
    """Observations in, actions out; a subclass says where the prompt comes from.

    :param actor: actor, whose weights are shared.
    :param chain: steps from noise to actions.
    """

    low: th.Tensor
    high: th.Tensor
    by_keyword: ClassVar[tuple[str, ...]] = ()
    """Names of the inputs beside observations and noise."""

    def __init__(self, actor: PromptedActor, chain: Sequence[Any]) -> None:
        super().__init__()
        self.actor, self.chain = actor, list(chain)
        space = actor.action_space
        self.is_whole = space.dtype.kind in "iu"
        for name, bound in (("low", space.low), ("high", space.high)):
            self.register_buffer(name, th.as_tensor(bound, device=actor.device))

    def act(self, observations: TensorObs, prompt: PromptEncoding, noise: th.Tensor | None) -> th.Tensor:
        """Act under one encoded prompt.

        :param observations: (n, *obs_shape), or a dict of such tensors; environment units.
        :param prompt: the prompt of all rows.
        :param noise: (S, n, action_dim), standard normal; None for the deterministic action of each row.
        :return: (n, *action_shape), environment units, of the action space's dtype and within its bounds.
        """
        if noise is None:
            shape = len(self.chain), count_rows(observations, 1), self.actor.denoiser.action_dim
            noise = th.zeros(shape, device=self.low.device)
        actions = self.actor(observations, prompt, noise.unsqueeze(1), self.chain)
        # As `actions_in_space`.
        low, high = self.low.to(actions.dtype), self.high.to(actions.dtype)
        unscaled = unscale_actions(actions.reshape(-1, *low.shape), low, high)
        unscaled = (unscaled.round() if self.is_whole else unscaled).clamp(low, high)
        return unscaled.to(self.low.dtype).clamp(self.low, self.high)

    def inputs(self, deterministic: bool) -> dict[str, ProgramInput]:
        """Describe the inputs by name, in their order.

        :param deterministic: leave the noise out.
        """
        space, device = self.actor.observation_space, self.actor.device
        seen = _drawn(space, _N_ROWS, device)
        described = {"observations": ProgramInput(seen, {0: "rows"}, "in environment units, one a row")}
        if not deterministic:
            shape = len(self.chain), _N_ROWS, self.actor.denoiser.action_dim
            noise = th.zeros(shape, device=device)
            meaning = "standard normal, for each step of the sampling"
            described["noise"] = ProgramInput(noise, {1: "rows"}, meaning)
        return described


class OneTaskNetwork(ActingNetwork):
    """Observations in, actions out, for one prompt that is a part of the network.

    :param actor: actor, whose weights are shared.
    :param chain: steps from noise to actions.
    :param prompt: one prompt that the actor encoded.
    """

    def __init__(self, actor: PromptedActor, chain: Sequence[Any], prompt: PromptEncoding) -> None:
        super().__init__(actor, chain)
        for name, value in prompt._asdict().items():
            self.register_buffer(name, value)

    def forward(self, observations: TensorObs, noise: th.Tensor | None = None) -> th.Tensor:
        """Act on the task, see `ActingNetwork.act`."""
        prompt = PromptEncoding(*(getattr(self, name) for name in PromptEncoding._fields))
        return self.act(observations, prompt, noise)


class PromptedNetwork(ActingNetwork):
    """Observations and a prompt in, actions out: one prompt for all observations of a call.

    :param actor: actor, whose weights are shared.
    :param chain: steps from noise to actions.
    :param window: L, steps that are spread over an example; None where all are read.
    """

    by_keyword = ("text_vector", "has_text", "example_observations", "example_actions", "example_lengths")

    def __init__(self, actor: PromptedActor, chain: Sequence[Any], window: int | None) -> None:
        super().__init__(actor, chain)
        self.window = window

    def forward(
        self,
        observations: TensorObs,
        noise: th.Tensor | None = None,
        *,
        example_observations: TensorObs,
        example_actions: th.Tensor,
        example_lengths: th.Tensor,
        text_vector: th.Tensor | None = None,
        has_text: th.Tensor | None = None,
    ) -> th.Tensor:
        """Act.

        :param observations: (n, *obs_shape), or a dict of such tensors; environment units.
        :param noise: as in `ActingNetwork.act`.
        :param example_observations: (S, *obs_shape), the steps of all examples one after the other, S at
            least 1; environment units.
        :param example_actions: (S, *action_shape), environment units.
        :param example_lengths: (E,), int64, steps of each example, zeros behind the last one; E at least 1,
            all zeros without an example.
        :param text_vector: (text_dim,), the sentence's vector as the text encoder gives it; None for a model
            without text.
        :param has_text: (), bool; False without a sentence.
        :return: (n, *action_shape), environment units, of the action space's dtype and within its bounds.
        """
        at, lengths = self._shown(example_lengths, example_actions.shape[0])
        actions = example_actions.index_select(0, at).flatten(1)
        scaled = scale_actions(actions, self.low.flatten(), self.high.flatten()).float()
        batch = PromptBatch(
            text_vectors=scaled.new_zeros(1, 0) if text_vector is None else text_vector.unsqueeze(0),
            has_text=lengths.new_zeros(1).bool() if has_text is None else has_text.reshape(1),
            observations=_rows(example_observations, at),
            actions=scaled.unsqueeze(0),
            lengths=lengths.unsqueeze(0),
            has_trajectory=lengths.sum().reshape(1) > 0,
        )
        return self.act(observations, self.actor.encode_prompts(batch), noise)

    def _shown(self, lengths: th.Tensor, n_steps: int) -> tuple[th.Tensor, th.Tensor]:
        """Choose the steps that the model reads: all, or L spread over each example.

        :return: their numbers, and how many there are of each example.
        """
        device = lengths.device
        if self.window is None:  # and rows behind them, so that retrieval finds as many as it weighs
            at = th.arange(n_steps + N_RETRIEVED, device=device).clamp(max=n_steps - 1)
            return at, lengths
        # As `window_steps`.
        parts = (th.arange(self.window, dtype=th.float64, device=device) + 0.5) / self.window
        steps = (lengths.unsqueeze(1) * parts).floor().long()  # (E, L)
        steps = th.minimum(steps, lengths.unsqueeze(1) - 1) + (lengths.cumsum(0) - lengths).unsqueeze(1)
        return steps.clamp(0, n_steps - 1).flatten(), self.window * (lengths > 0).long()

    def inputs(self, deterministic: bool) -> dict[str, ProgramInput]:
        """Describe the inputs by name, see `ActingNetwork.inputs`."""
        device, text_dim = self.actor.device, len(self.actor.text_normaliser.mean)
        described = super().inputs(deterministic)
        if text_dim:
            vector, is_there = th.zeros(text_dim, device=device), th.tensor(True, device=device)
            meaning = "the sentence's vector by the text encoder; zeros without a sentence"
            described["text_vector"] = ProgramInput(vector, {}, meaning)
            described["has_text"] = ProgramInput(is_there, {}, "false without a sentence")
        n_steps, free = sum(_LENGTHS), {0: "steps"}
        shown = {
            "example_observations": (
                _drawn(self.actor.observation_space, n_steps, device),
                "in environment units, steps of all examples one after the other; without an example a row of"
                " zeros",
            ),
            "example_actions": (
                th.zeros(n_steps, *self.low.shape, device=device),
                "in environment units, of these steps",
            ),
        }
        described |= {name: ProgramInput(value, free, meaning) for name, (value, meaning) in shown.items()}
        described["example_lengths"] = ProgramInput(
            th.tensor(_LENGTHS, device=device),
            {0: "examples"},
            "steps of each example, zeros behind the last one; without an example one zero",
        )
        return described


def write_program(
    network: ActingNetwork, path: str | Path, deterministic: bool, about: Mapping[str, str]
) -> Path:
    """Write the network as a program, whole or not at all.

    :param network: network to write.
    :param path: path of the file, ``.onnx`` for ONNX; ``.pt2`` is added where there is no suffix.
    :param deterministic: let the program take no noise.
    :param about: further facts for a reader of the file, by name.
    :return: path of the file.
    :raises ImportError: without the packages that write ONNX.
    """
    place = Path(path).expanduser()
    place = place if place.suffix else place.with_suffix(".pt2")
    is_onnx = place.suffix.lower() == ".onnx"
    for package in ("onnx", "onnxscript") if is_onnx else ():
        require(package, "onnx")
    inputs = network.inputs(deterministic)
    by_keyword = {name: inputs[name] for name in inputs if name in network.by_keyword}
    values = [given.value for name, given in inputs.items() if name not in by_keyword]
    dims: dict[str, Any] = {}
    shapes = {
        name: given.axes(lambda axis: dims.setdefault(axis, th.export.Dim(axis)))
        for name, given in inputs.items()
    }
    keywords = {name: given.value for name, given in by_keyword.items()}
    with th.no_grad(), _plain_attention():
        program = th.export.export(network, tuple(values), keywords, dynamic_shapes=shapes)
    said = {**_about(network, inputs), **about}
    with whole_file(place) as temporary:
        if is_onnx:
            _save_onnx(program, temporary, inputs, said)
        else:
            th.export.save(program, temporary, extra_files={ABOUT: json.dumps(said, indent=1)})
    return place


def write_vectors(model: "LLMDPD", path: str | Path, sentences: Sequence[str] = ()) -> Path:
    """Write the vectors of sentences, for a program that takes the prompt beside observations.

    :param model: model whose known sentences are written.
    :param path: an ``.npz`` of ``texts`` (n,), ``vectors`` (n, text_dim) and ``beside_examples`` (n,), true
        of a sentence that `predict` reads beside an example, too. NumPy reads it without pickle.
    :param sentences: further ones.
    :return: path of the file.
    :raises ValueError: when the model was trained without sentences, or cannot read one of these.
    """
    if model.text_table is None:
        raise ValueError("this model was trained without sentences, and there are no vectors to write")
    table = model.text_table.extended(sentences)
    counts = np.array(model.prompter.counts_beside_examples(table.texts))
    place = Path(path).expanduser()
    place = place if place.suffix else place.with_suffix(".npz")
    with whole_file(place) as temporary, temporary.open("wb") as file:
        np.savez(file, texts=np.array(table.texts), vectors=table.vectors, beside_examples=counts)
    return place


def _about(network: ActingNetwork, inputs: Mapping[str, ProgramInput]) -> dict[str, str]:
    """Describe a program: its inputs, its actions, and what wrote it."""
    space = network.actor.action_space
    shape = ", ".join(map(str, ("rows", *space.shape)))
    return {
        "made_by": f"sb3_llmdpd {__version__}",
        "inputs": json.dumps(_leaves(inputs)),
        "actions": f"({shape}) {space.dtype}: in environment units",
        "action_low": json.dumps(space.low.tolist()),
        "action_high": json.dumps(space.high.tolist()),
    }


def _leaves(inputs: Mapping[str, ProgramInput]) -> dict[str, str]:
    return {leaf: text for name, given in inputs.items() for leaf, text in given.leaves(name).items()}


def _type(tensor: th.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _save_onnx(
    program: th.export.ExportedProgram,
    path: Path,
    inputs: Mapping[str, ProgramInput],
    about: Mapping[str, str],
) -> None:
    described = _leaves(inputs)
    with _quiet():
        made: Any = th.onnx.export(
            program,
            input_names=list(described),
            output_names=["actions"],
            dynamic_shapes={name: given.axes(str) for name, given in inputs.items()},
            custom_translation_table={th.ops.aten.mish.default: _mish_in_onnx},
            dynamo=True,
            verbose=False,
        )
    for value in made.model.graph.inputs:
        value.doc_string = described[value.name]
    made.model.metadata_props.update(about)
    made.save(path)


def _mish_in_onnx(x: Any) -> Any:
    """Write mish by its parts, since runtimes have no kernel for it and warn."""
    operators = require("onnxscript", "onnx").opset18
    return operators.Mul(x, operators.Tanh(operators.Softplus(x)))


def _drawn(space: Any, n: int, device: th.device) -> TensorObs:
    """Draw n observations of a space."""
    drawn = [space.sample() for _ in range(n)]
    if isinstance(drawn[0], dict):
        return to_device({key: np.stack([each[key] for each in drawn]) for key in drawn[0]}, device)
    return to_device(np.stack(drawn), device)


def _rows(observations: TensorObs, at: th.Tensor) -> TensorObs:
    if isinstance(observations, dict):
        return {key: part.index_select(0, at) for key, part in observations.items()}
    return observations.index_select(0, at)


@contextmanager
def _plain_attention() -> Iterator[None]:
    """Keep PyTorch from its fused transformer layer, which no other runtime knows."""
    before = th.backends.mha.get_fastpath_enabled()
    th.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        th.backends.mha.set_fastpath_enabled(before)


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide what PyTorch's exporter says of itself: missing vision operators, shared axes, deprecations."""
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)
