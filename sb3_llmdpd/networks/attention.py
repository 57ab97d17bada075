"""What a state looks up in the steps of its example: learned cross-attention, or the nearest steps."""

import torch as th
from torch import nn
from torch.nn import functional as F

from sb3_llmdpd.type_aliases import PromptEncoding

CONDITIONINGS = ("concat", "cross_attention", "nearest_steps")
"""How a policy reads its prompt: by its vectors alone, or with single steps of the example beside them."""


class TrajectoryAttention(nn.Module):
    """One layer of multi-head attention from states to the encoded steps of their example.

    :param feature_dim: size of a state's features.
    :param token_dim: size of an encoded step; also of the result.
    :param n_heads: heads; must divide ``token_dim``.
    """

    def __init__(self, feature_dim: int, token_dim: int, n_heads: int = 4) -> None:
        super().__init__()
        self.context_dim = token_dim
        self.n_heads = n_heads
        self.query = nn.Linear(feature_dim, token_dim)
        self.key_value = nn.Linear(token_dim, 2 * token_dim)
        self.output = nn.Linear(token_dim, token_dim)
        self.null = nn.Parameter(th.zeros(token_dim))

    def forward(self, features: th.Tensor, prompts: PromptEncoding) -> th.Tensor:
        """What the example says about each state; a learned null where there is no example.

        :param features: (M, N, feature_dim), normalised.
        :param prompts: M encoded prompts.
        :return: (M, N, token_dim).
        """
        queries = self._heads(self.query(features))  # (M, heads, N, token_dim / heads)
        keys, values = (self._heads(part) for part in self.key_value(prompts.tokens).chunk(2, dim=-1))
        attended = F.scaled_dot_product_attention(queries, keys, values)
        context = self.output(attended.transpose(1, 2).flatten(2))  # (M, N, token_dim)
        return th.where(prompts.has_trajectory[:, None, None], context, self.null)

    def _heads(self, x: th.Tensor) -> th.Tensor:
        return x.unflatten(-1, (self.n_heads, -1)).transpose(1, 2)


class NearestSteps(nn.Module):
    """The steps of the example whose states are nearest, and what was done there and next.

    With states s and steps (s_j, a_j) of the example, w_j = softmax(-|c * (s - s_j)|^2); the context is the mean under w of
    s_j - s, s_{j+1} - s, a_j and j / (L - 1). Only the scales c of the features are learned. So what is read off the example
    is a difference to it, which means the same in a task that was never seen, and not what task it belongs to, which does not.

    :param feature_dim: size of a state's features.
    :param action_dim: size of an action.
    """

    def __init__(self, feature_dim: int, action_dim: int) -> None:
        super().__init__()
        self.context_dim = 2 * feature_dim + action_dim + 2
        # Features are standardised: two states a standard deviation apart in one of them begin with a share of e^-1/2.
        self.log_scale = nn.Parameter(th.full((feature_dim,), -0.35))

    def forward(self, features: th.Tensor, prompts: PromptEncoding) -> th.Tensor:
        """What the example did near each state; zeros where there is no example, with a last entry that says so.

        :param features: (M, N, feature_dim), normalised.
        :param prompts: M encoded prompts.
        :return: (M, N, 2 * feature_dim + action_dim + 2).
        """
        feature_dim = features.shape[-1]
        states = prompts.steps[..., :feature_dim]  # (M, L, F)
        queries, keys = features * self.log_scale.exp(), states * self.log_scale.exp()
        # Less |c s|^2, which is the same for all steps.
        distances = keys.square().sum(-1).unsqueeze(1) - 2.0 * queries @ keys.transpose(1, 2)
        following = th.cat([states[:, 1:], states[:, -1:]], dim=1)
        n_steps = states.shape[1]
        times = th.linspace(0.0, 1.0, n_steps, device=states.device).expand(len(states), n_steps).unsqueeze(-1)
        values = th.cat([following, prompts.steps, times], dim=-1)  # (M, L, 2 F + A + 1)
        nearest = th.softmax(-distances, dim=-1) @ values
        ways = nearest[..., : 2 * feature_dim] - features.repeat(1, 1, 2)
        context = th.cat([ways, nearest[..., 2 * feature_dim :], th.ones_like(nearest[..., :1])], dim=-1)
        return context * prompts.has_trajectory[:, None, None]


def make_attention(
    conditioning: str, feature_dim: int, action_dim: int, token_dim: int, n_heads: int
) -> TrajectoryAttention | NearestSteps | None:
    """What reads single steps of the example, where any are read.

    :param conditioning: one of ``CONDITIONINGS``.
    :param feature_dim: size of a state's features.
    :param action_dim: size of an action.
    :param token_dim: size of an encoded step.
    :param n_heads: heads of the cross-attention.
    :return: a network with a ``context_dim``; None for ``"concat"``.
    """
    if conditioning == "cross_attention":
        return TrajectoryAttention(feature_dim, token_dim, n_heads)
    return NearestSteps(feature_dim, action_dim) if conditioning == "nearest_steps" else None


def context_dim(attention: TrajectoryAttention | NearestSteps | None) -> int:
    """Size of what is looked up.

    :param attention: from `make_attention`.
    :return: 0 without any.
    """
    return 0 if attention is None else attention.context_dim


def with_context(
    attention: TrajectoryAttention | NearestSteps | None, features: th.Tensor, prompts: PromptEncoding
) -> th.Tensor:
    """Features of states, and beside them what they look up in their example.

    :param attention: from `make_attention`.
    :param features: (M, N, feature_dim), normalised.
    :param prompts: M encoded prompts.
    :return: (M, N, feature_dim + context_dim).
    """
    return features if attention is None else th.cat([features, attention(features, prompts)], dim=-1)
