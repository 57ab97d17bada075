"""Causal transformer of Prompt-DT over the prompt and the returns-to-go, states and actions so far."""

import torch as th
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn

from sb3_llmdpd.baselines.segments import Segments
from sb3_llmdpd.networks.layers import Normaliser
from sb3_llmdpd.type_aliases import PromptBatch


class PromptDTNetwork(nn.Module):
    """Predicts each step's action from what is before it.

    The sequence is one token of the sentence, a state and an action of each of the example's L steps, and
    return-to-go, state and action of each of the last K steps. Learned tokens replace what is absent.

    :param extractor: features extractor of observations, without anything to learn
    :param action_dim: size of an action
    :param text_dim: size of the language model's vectors; 0 for a model without text
    :param prompt_window: L
    :param context: K
    :param token_dim: width of a token
    :param n_layers: layers of the transformer
    :param n_heads: heads of a layer
    :raises ValueError: when ``n_heads`` does not divide ``token_dim``
    """

    blocked: th.Tensor

    def __init__(
        self,
        extractor: BaseFeaturesExtractor,
        action_dim: int,
        text_dim: int,
        prompt_window: int,
        context: int,
        token_dim: int,
        n_layers: int,
        n_heads: int,
    ) -> None:
        super().__init__()
        if token_dim % n_heads:
            raise ValueError(f"`token_dim` must be a multiple of `n_heads`, got {token_dim} and {n_heads}")
        features_dim = extractor.features_dim
        self.extractor = extractor
        self.feature_normaliser, self.text_normaliser = Normaliser(features_dim), Normaliser(text_dim)
        self.text = nn.Linear(text_dim, token_dim) if text_dim else None
        self.example_state = nn.Linear(features_dim, token_dim)
        self.example_action = nn.Linear(action_dim, token_dim)
        self.return_to_go = nn.Linear(1, token_dim)
        self.state = nn.Linear(features_dim, token_dim)
        self.action = nn.Linear(action_dim, token_dim)
        self.null_text = nn.Parameter(0.02 * th.randn(token_dim))
        self.null_example = nn.Parameter(0.02 * th.randn(token_dim))
        # The tokens of a step share its position, as in the Decision Transformer.
        self.example_positions = nn.Parameter(0.02 * th.randn(prompt_window, 1, token_dim))
        self.positions = nn.Parameter(0.02 * th.randn(context, 1, token_dim))
        layer = nn.TransformerEncoderLayer(
            token_dim, n_heads, 4 * token_dim, dropout=0.1, batch_first=True, norm_first=True
        )
        norm = nn.LayerNorm(token_dim)
        self.transformer = nn.TransformerEncoder(layer, n_layers, norm, enable_nested_tensor=False)
        self.head = nn.Sequential(nn.Linear(token_dim, action_dim), nn.Tanh())
        self.prompt_window = prompt_window

    def encode_observations(self, observations: th.Tensor) -> th.Tensor:
        """Compute features of observations.

        :param observations: (n, *obs_shape), environment units
        :return: (n, features_dim), standardised
        """
        return self.feature_normaliser(self.extractor(observations))

    def forward(self, segments: Segments, prompts: PromptBatch) -> th.Tensor:
        """Predict the action of every step.

        :param segments: B = M * N segments; returns-to-go of the order of 1
        :param prompts: M prompts
        :return: (B, K, action_dim), in [-1, 1]; entries before an episode's first step mean nothing
        """
        n_rows, context = segments.is_step.shape
        told, is_told = (
            part.repeat_interleave(n_rows // len(part), dim=0) for part in self._prompt_tokens(prompts)
        )
        features = self.encode_observations(segments.observations.flatten(0, 1))
        step_tokens = [
            self.return_to_go(segments.returns_to_go[..., None]),
            self.state(features.unflatten(0, (n_rows, context))),
            self.action(segments.actions),
        ]
        steps = th.stack(step_tokens, dim=2)  # (B, K, 3, token_dim)
        tokens = th.cat([told, (steps + self.positions).flatten(1, 2)], dim=1)
        is_token = th.cat([is_told, segments.is_step.repeat_interleave(3, dim=1)], dim=1)
        n_tokens = tokens.shape[1]
        blocked = th.ones(n_tokens, n_tokens, dtype=th.bool, device=tokens.device).triu(1)
        hidden = self.transformer(tokens, mask=blocked, src_key_padding_mask=~is_token)
        hidden = hidden[:, told.shape[1] :].unflatten(1, (context, 3))
        return self.head(hidden[:, :, 1])  # the token of the state, which sees no later one

    def _prompt_tokens(self, prompts: PromptBatch) -> tuple[th.Tensor, th.Tensor]:
        """(M, 1 + 2 E L, token_dim), text and examples one after the other; and which of them are there."""
        n_prompts, window = len(prompts.actions), self.prompt_window
        text = self.null_text.expand(n_prompts, -1)
        if self.text is not None:
            told = self.text(self.text_normaliser(prompts.text_vectors))
            text = th.where(prompts.has_text[:, None], told, text)
        # Without an example, one window holds the null.
        example = self.null_example.expand(n_prompts, window, 2, -1)
        is_shown = prompts.lengths.new_ones(n_prompts, 1, dtype=th.bool)  # (M, E)
        if prompts.actions.shape[1]:
            assert isinstance(prompts.observations, th.Tensor)  # PromptDT refuses other observations
            features = self.encode_observations(prompts.observations).unflatten(0, (n_prompts, -1))
            tokens = th.stack([self.example_state(features), self.example_action(prompts.actions)], dim=2)
            shown = tokens.unflatten(1, (-1, window)) + self.example_positions  # (M, E, L, 2, token_dim)
            has_example = prompts.has_trajectory[:, None, None, None, None]
            example = th.where(has_example, shown, self.null_example).flatten(1, 2)
            is_first = th.arange(prompts.lengths.shape[1], device=text.device) == 0
            is_shown = th.where(prompts.has_trajectory[:, None], prompts.lengths > 0, is_first)
        is_there = is_shown.repeat_interleave(2 * window, dim=1)
        return (
            th.cat([text[:, None], example.flatten(1, 2)], dim=1),
            th.cat([is_there.new_ones(n_prompts, 1), is_there], dim=1),
        )
