"""The encoders that turn a batch of prompts into the vectors and tokens that condition actor and critic."""

from itertools import pairwise
from typing import NamedTuple, Self

import torch as th
from torch import nn

from sb3_llmdpd.networks.attention import FAR, LOOK_AHEADS
from sb3_llmdpd.type_aliases import PromptBatch, PromptEncoding


class PromptEncoder(nn.Module):
    """Text and trajectory side by side, with a learned null embedding for whichever is absent.

    z_l = MLP_l(h), h the standardised vector of the frozen language model; z_tau = the projected mean of the
    encoded steps. Both end in a layer norm, so that neither outweighs the other or the state. A policy that
    reads the steps of the example one by one has neither z_tau nor a transformer.

    :param text_dim: size of the language model's vectors; 0 for a model without text.
    :param feature_dim: size of a state's features.
    :param action_dim: size of an action.
    :param window: L, steps of an example.
    :param text_embedding_dim: size of z_l.
    :param trajectory_embedding_dim: size of z_tau; 0 for none.
    :param token_dim: width of the trajectory transformer.
    :param n_layers: layers of the trajectory transformer.
    :param n_heads: heads of the trajectory transformer.
    :param n_text_layers: linear maps in MLP_l; with one, a known word keeps its share in new sentences.
    """

    def __init__(
        self,
        text_dim: int,
        feature_dim: int,
        action_dim: int,
        window: int,
        text_embedding_dim: int,
        trajectory_embedding_dim: int,
        token_dim: int,
        n_layers: int,
        n_heads: int,
        n_text_layers: int = 2,
    ) -> None:
        super().__init__()
        self.vector_dim = text_embedding_dim + trajectory_embedding_dim
        self.text = _text_map(text_dim, text_embedding_dim, n_text_layers) if text_dim else None
        self.trajectory = None
        if trajectory_embedding_dim:
            self.trajectory = TrajectoryEncoder(feature_dim, action_dim, window, token_dim, n_layers, n_heads)
            projection = nn.Linear(token_dim, trajectory_embedding_dim)
            self.pool = nn.Sequential(projection, nn.LayerNorm(trajectory_embedding_dim))
        # The text's null before the trajectory's: the order of the draws decides what a seed begins with.
        self.null_text = nn.Parameter(0.02 * th.randn(text_embedding_dim))
        if trajectory_embedding_dim:
            self.null_trajectory = nn.Parameter(0.02 * th.randn(trajectory_embedding_dim))

    def forward(self, prompts: PromptBatch, features: th.Tensor) -> PromptEncoding:
        """Encode M prompts.

        :param prompts: M prompts, their text vectors standardised.
        :param features: (M, S, feature_dim), normalised features of ``prompts.observations``.
        :return: vectors (M, text_embedding_dim + trajectory_embedding_dim); encoded and plain steps.
        """
        shown = prompts.has_trajectory
        vectors = self.null_text.expand(len(shown), -1)
        if self.text is not None and prompts.text_vectors.shape[1]:
            vectors = th.where(prompts.has_text[:, None], self.text(prompts.text_vectors), vectors)
        places = StepPlaces.of(prompts.lengths, features.shape[1])
        if self.trajectory is None:
            steps = example_steps(features, prompts.actions, places)
            keys = example_keys(features, places.is_step)
            return PromptEncoding(vectors, steps[..., :0], keys, steps, places.is_step, shown)
        steps = th.cat([features, prompts.actions], dim=-1)  # (M, S, feature_dim + action_dim)
        tokens = steps[..., :0]
        if steps.shape[1]:
            windows = steps.unflatten(1, (-1, self.trajectory.window)).flatten(0, 1)  # (M * E, L, ...)
            tokens = (
                self.trajectory(windows).unflatten(0, (len(steps), -1)).flatten(1, 2)
            )  # (M, S, token_dim)
            # The mean over all steps of all examples, and so over windows.
            share = places.is_step.float() / places.is_step.sum(dim=1, keepdim=True).clamp(min=1)
            mean = (share.unsqueeze(1) @ tokens).squeeze(1)
            trajectory = th.where(shown[:, None], self.pool(mean), self.null_trajectory)
        else:  # no example is shown, and none has to be encoded
            trajectory = self.null_trajectory.expand(len(shown), -1)
        vectors = th.cat([vectors, trajectory], dim=1)
        nothing = steps.new_zeros(*steps.shape[:2], 0)
        return PromptEncoding(vectors, tokens, nothing, nothing, places.is_step, shown)


class TrajectoryEncoder(nn.Module):
    """One token for each (state, action) step of an example, and a transformer encoder over them.

    Windows are always full (`window_steps`), so there is no padding and no mask.

    :param feature_dim: size of a state's features.
    :param action_dim: size of an action.
    :param window: L, steps of an example.
    :param token_dim: width of the transformer.
    :param n_layers: number of its layers.
    :param n_heads: number of its heads; must divide ``token_dim``.
    """

    def __init__(
        self, feature_dim: int, action_dim: int, window: int, token_dim: int, n_layers: int, n_heads: int
    ) -> None:
        super().__init__()
        self.window = window
        self.embed = nn.Linear(feature_dim + action_dim, token_dim)
        self.positions = nn.Parameter(0.02 * th.randn(window, token_dim))
        layer = nn.TransformerEncoderLayer(  # without dropout
            token_dim, n_heads, 4 * token_dim, 0.0, "gelu", batch_first=True, norm_first=True
        )
        norm = nn.LayerNorm(token_dim)
        self.transformer = nn.TransformerEncoder(layer, n_layers, norm, enable_nested_tensor=False)

    def forward(self, steps: th.Tensor) -> th.Tensor:
        """Encode the steps.

        :param steps: (M, L, feature_dim + action_dim): normalised features, and actions in [-1, 1].
        :return: (M, L, token_dim).
        """
        return self.transformer(self.embed(steps) + self.positions)


class StepPlaces(NamedTuple):
    """Places of a prompt's S steps in its examples, which lie one after the other."""

    is_step: th.Tensor
    """(M, S), bool; False for rows behind the last step."""
    place: th.Tensor
    """(M, S), int64: number of the step in its example."""
    length: th.Tensor
    """(M, S), int64: steps of its example."""

    @classmethod
    def of(cls, lengths: th.Tensor, n_steps: int) -> Self:
        """Find the places.

        :param lengths: (M, E), steps of each example; zeros behind the last one.
        :param n_steps: S, at least the steps of all examples of a prompt.
        """
        ends = lengths.cumsum(dim=1)  # (M, E)
        rows = th.arange(n_steps, device=lengths.device).expand(len(lengths), -1)
        if not ends.shape[1]:
            return cls(rows < 0, rows, rows)
        is_step = rows < ends[:, -1:]
        if th.compiler.is_exporting():  # ONNX has no search
            before = (ends.unsqueeze(1) <= rows.unsqueeze(2)).sum(dim=2)
        else:
            before = th.searchsorted(ends, rows.contiguous(), right=True)
        example = before.clamp(max=ends.shape[1] - 1)
        length = lengths.gather(1, example)
        return cls(is_step, rows - ends.gather(1, example) + length, length)


def example_steps(features: th.Tensor, actions: th.Tensor, places: StepPlaces) -> th.Tensor:
    """Lay out what nearest steps read of each step.

    :param features: (M, S, F), normalised.
    :param actions: (M, S, A), in [-1, 1].
    :param places: places of the steps.
    :return: (M, S, (1 + len(LOOK_AHEADS)) F + A + 1): the features, those of the steps ahead, at most of the
        example's last, the action, and the step's time in [0, 1].
    """
    left = (places.length - 1 - places.place).clamp(min=0)  # steps to the example's end
    n_steps = features.shape[1]
    rows = th.arange(n_steps, device=features.device)
    ways = [features]
    for share in LOOK_AHEADS:
        ahead = (places.length * share).round().long().clamp(min=1)
        at = (rows + th.minimum(ahead, left)).clamp(max=max(n_steps - 1, 0))
        ways.append(features.gather(1, at.unsqueeze(-1).expand_as(features)))
    time = places.place.float() / (places.length - 1).clamp(min=1)
    return th.cat([*ways, actions, time.unsqueeze(-1)], dim=-1)


def example_keys(features: th.Tensor, is_step: th.Tensor) -> th.Tensor:
    """Lay the states out so that one product with (2 q, -1) tells the nearest to a query q.

    It gives ``2 q s - |s|^2``, which is ``|q|^2`` less the squared distance; what is no step lies far away.

    :param features: (M, S, F), normalised.
    :param is_step: (M, S), bool.
    :return: (M, F + 1, S).
    """
    features = features.masked_fill(~is_step.unsqueeze(-1), 0.0)
    squares = features.square().sum(dim=-1).masked_fill(~is_step, FAR)
    # Steps along the last axis: a product with one query reads all keys, in the order of memory.
    return th.cat([features, squares.unsqueeze(-1)], dim=-1).transpose(1, 2).contiguous()


def _text_map(text_dim: int, text_embedding_dim: int, n_layers: int) -> nn.Sequential:
    sizes = [text_dim, *[2 * text_embedding_dim] * (n_layers - 1), text_embedding_dim]
    layers = [layer for n_in, n_out in pairwise(sizes) for layer in (nn.SiLU(), nn.Linear(n_in, n_out))]
    return nn.Sequential(*layers[1:], nn.LayerNorm(text_embedding_dim))
