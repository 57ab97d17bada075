"""The prompted critic: Q-networks, the value of a state, the choice among candidate actions by value."""

from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from torch import nn

from sb3_llmdpd.checkpoint.networks import SavedNetwork, arguments_of
from sb3_llmdpd.llmdpd.arguments import check_policy_arguments
from sb3_llmdpd.networks.attention import StateReader, make_state_reader
from sb3_llmdpd.networks.layers import PromptedPerceptron, QEnsemble, StateValue
from sb3_llmdpd.type_aliases import PromptEncoding


class PromptedCritic(SavedNetwork):
    """Q_j(s, a | text, trajectory), on the features and prompt encodings of the EMA actor.

    The encoders belong to the actor and learn from its loss alone; the critic reads their averaged, slowly
    moving copy. So the two losses do not fight over them, and the actor cannot raise its value by bending its
    own prompt vector. The parameters are documented at `LLMDPDPolicy`.
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Box,
        net_arch: list[int],
        features_dim: int,
        prompt_dim: int,
        n_critics: int,
        activation_fn: type[nn.Module],
        layer_norm: bool,
        conditioning: str,
        token_dim: int,
        n_heads: int,
    ) -> None:
        self._arguments = arguments_of(locals())
        check_policy_arguments(self._arguments)
        super().__init__(observation_space, action_space)
        self.n_critics = n_critics
        self._features_dim, self._prompt_dim, self._token_dim = features_dim, prompt_dim, token_dim
        action_dim = int(np.prod(action_space.shape))
        self.attention = make_state_reader(conditioning, features_dim, action_dim, token_dim, n_heads)
        feature_dim = self.attention.output_dim
        self.q_networks = QEnsemble(
            action_dim, feature_dim, prompt_dim, n_critics, net_arch, activation_fn, layer_norm
        )

    def forward(self, features: th.Tensor, prompts: PromptEncoding, actions: th.Tensor) -> th.Tensor:
        """Compute the values of actions.

        :param features: (M, N, features_dim), of the EMA actor.
        :param prompts: M prompts, encoded by the EMA actor.
        :param actions: (M, N * C, action_dim), in [-1, 1]: C for each state, side by side.
        :return: (n_critics, M, N * C).
        """
        condition = _condition(self.q_networks, self.attention, features, prompts)
        n_candidates = actions.shape[1] // features.shape[1]
        if n_candidates > 1:  # the share of the state is computed once for its candidates
            condition = condition.repeat_interleave(n_candidates, dim=1)
        return self.q_networks(condition, actions)

    def outputs_on_zeros(self) -> dict[str, th.Tensor]:
        """Value an action, see `SavedNetwork.outputs_on_zeros`."""
        features = th.zeros(1, 1, self._features_dim, device=self.device)
        actions = th.zeros(1, 1, self.q_networks.from_action.in_features, device=self.device)
        is_there = th.zeros(1, 0, dtype=th.bool, device=self.device)
        tokens = th.zeros(1, 0, self._token_dim, device=self.device)
        # Without an example there is no step, and nothing reads its parts.
        vectors = th.zeros(1, self._prompt_dim, device=self.device)
        prompts = PromptEncoding(vectors, tokens, tokens, tokens, is_there, is_there.any(dim=1))
        return {"its values": self(features, prompts, actions)}


class PromptedStateValue(nn.Module):
    """V(s | text, trajectory) of the expectile critic, on the same inputs as `PromptedCritic`.

    The parameters are documented at `LLMDPDPolicy`.

    :param perceptron: further arguments of `StateValue`.
    """

    def __init__(
        self,
        features_dim: int,
        action_dim: int,
        conditioning: str,
        token_dim: int,
        n_heads: int,
        **perceptron: Any,
    ) -> None:
        super().__init__()
        self.attention = make_state_reader(conditioning, features_dim, action_dim, token_dim, n_heads)
        self.value_network = StateValue(self.attention.output_dim, **perceptron)

    def forward(self, features: th.Tensor, prompts: PromptEncoding) -> th.Tensor:
        """Compute the values of states.

        :param features: (M, N, features_dim), of the EMA actor.
        :param prompts: M prompts, encoded by the EMA actor.
        :return: (M, N).
        """
        return self.value_network(_condition(self.value_network, self.attention, features, prompts))


def _condition(
    network: PromptedPerceptron, reader: StateReader, features: th.Tensor, prompts: PromptEncoding
) -> th.Tensor:
    return network.condition(reader.project(network.from_state, features, prompts), prompts.vectors)


def choose(
    actions: th.Tensor,
    values: th.Tensor,
    n_candidates: int,
    temperature: float,
    generator: th.Generator | None,
) -> th.Tensor:
    """Choose one of each row's candidate actions by value.

    :param actions: (M, N * C, action_dim), the candidates of a row side by side.
    :param values: (M, N * C).
    :param n_candidates: C.
    :param temperature: 0 for the best; otherwise of the softmax over the standardised values.
    :param generator: source of the draw; needed when ``temperature`` is above 0.
    :return: (M, N, action_dim).
    """
    values = values.unflatten(1, (-1, n_candidates))  # (M, N, C)
    if temperature == 0:
        picked = values.argmax(dim=-1)
    else:
        # Standardised: the scale of Q depends on rewards and horizon, not on how sure the critic is.
        centred = values - values.mean(dim=-1, keepdim=True)
        logits = centred / (values.std(dim=-1, keepdim=True) + 1e-6) / temperature
        # Where a value is not finite, any of the candidates, whose action is not either.
        weights = logits.softmax(dim=-1).nan_to_num(1.0).flatten(0, 1)
        picked = th.multinomial(weights, 1, generator=generator).view(values.shape[:2])
    candidates = actions.unflatten(1, values.shape[1:])  # (M, N, C, A)
    return candidates.take_along_dim(picked[:, :, None, None], dim=2).squeeze(2)
