"""How much more often the transitions of a better episode are drawn than those of a worse one of its task."""

from collections.abc import Sequence

import numpy as np

from sb3_llmdpd.data.episodes import Episode

MOST_LOTS = 10**6
"""Of a transition of the best episode of a task; the worst have one at least. Whole numbers, so that draws are exact."""


def check_return_weight(strength: float, gamma: float) -> None:
    """Refuse weights that cannot be.

    :param strength: of the weights.
    :param gamma: discount of the returns.
    :raises ValueError: when it is negative or not finite, or above 0 without a discount below 1.
    """
    if not 0 <= strength < np.inf:
        raise ValueError(f"`return_weight` must be a finite number of at least 0, got {strength}")
    if strength > 0 and not 0 <= gamma < 1:
        raise ValueError(f"`return_weight` above 0 goes by discounted returns: `gamma` must be in [0, 1), got {gamma}")


def lasting_return(episode: Episode, gamma: float) -> float:
    r"""Discounted return of an episode, where the last reward of one that was cut off is taken to go on for ever.

    .. math::
        G = \sum_{t < T} \gamma^t r_t + (1 - d) \, \gamma^T \frac{r_{T-1}}{1 - \gamma}

    Without the last term a task that is done at once would be worth less than one that is never done, wherever recording
    stops soon after a success.

    :param episode: of T steps; d = 1 where its task itself ended it.
    :param gamma: discount, below 1.
    :return: in units of its raw rewards.
    """
    rewards = episode.rewards.astype(np.float64)
    discounts = gamma ** np.arange(len(rewards) + 1)
    after = 0.0 if episode.terminated else discounts[-1] * rewards[-1] / (1.0 - gamma)
    return float(rewards @ discounts[:-1] + after)


def return_lots(episodes: Sequence[Episode], strength: float, gamma: float) -> np.ndarray:
    r"""Lots that each transition of an episode has in the draw.

    .. math::
        \mathrm{lots} \propto \exp\Big(\mathrm{strength} \cdot \frac{G - \mathrm{mean}(G)}{\mathrm{std}(G)}\Big)

    Mean and standard deviation are those of the episodes of its task. Trajectories weighted by their returns keep a policy
    that stays near mixed data from staying near the bad majority of them (Hong et al., 2023,
    https://arxiv.org/abs/2306.13085).

    :param episodes: of one or many tasks.
    :param strength: 0 or more; at 0 all transitions have one lot.
    :param gamma: discount of `lasting_return`.
    :return: (n_episodes,), whole numbers in [1, `MOST_LOTS`].
    """
    if strength == 0:
        return np.ones(len(episodes), np.int64)
    returns = np.array([lasting_return(episode, gamma) for episode in episodes])
    _, task = np.unique([episode.task for episode in episodes], return_inverse=True)
    n_episodes = np.bincount(task)
    deviations = returns - (np.bincount(task, returns) / n_episodes)[task]
    spreads = np.sqrt(np.bincount(task, np.square(deviations)) / n_episodes)[task]
    scores = np.divide(deviations, spreads, out=np.zeros_like(deviations), where=spreads > 1e-9 * np.abs(returns))
    best = np.full(len(n_episodes), -np.inf)
    np.maximum.at(best, task, scores)
    return np.maximum(1, np.round(MOST_LOTS * np.exp(strength * (scores - best[task])))).astype(np.int64)
