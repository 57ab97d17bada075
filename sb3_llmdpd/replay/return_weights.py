"""Weights that let the transitions of a task's better episodes be drawn more often."""

from collections.abc import Sequence

import numpy as np

from sb3_llmdpd.data.episodes import Episode

MOST_LOTS = 10**6
"""Lots of a transition of a task's best episode; others have at least one. Whole numbers make draws exact."""


def lasting_return(episode: Episode, gamma: float) -> float:
    r"""Sum the discounted rewards of an episode; the last reward of one that was cut off goes on for ever.

    .. math::
        G = \sum_{t < T} \gamma^t r_t + (1 - d) \, \gamma^T \frac{r_{T-1}}{1 - \gamma}

    Without the last term a task that is done at once would be worth less than one that is never done,
    wherever recording stops soon after a success.

    :param episode: episode of T steps; d = 1 where its task itself ended it
    :param gamma: discount, below 1
    :return: return in units of the raw rewards
    """
    rewards = episode.rewards.astype(np.float64)
    discounts = gamma ** np.arange(len(rewards) + 1)
    after = 0.0 if episode.terminated else discounts[-1] * rewards[-1] / (1.0 - gamma)
    return float(rewards @ discounts[:-1] + after)


def return_lots(episodes: Sequence[Episode], strength: float, gamma: float) -> np.ndarray:
    r"""Compute the lots that each transition of an episode has in a draw, see `BatchSampler`.

    .. math::
        \mathrm{lots} \propto \exp\Big(-\mathrm{strength} \cdot \frac{\max G - G}{\max |G|}\Big)

    The maxima are over the episodes of its task: an episode counts by the share of the best return that it
    misses. Weighted trajectories keep a policy that stays near mixed data from staying near their bad
    majority (Hong et al., 2023, https://arxiv.org/abs/2306.13085). Standardised returns would give the small
    differences between good episodes, which come from their scenes, as much weight as failures.

    :param episodes: episodes of one or many tasks
    :param strength: 0 or more; at 0 all transitions have one lot. In a task without negative returns, an
        episode that earns nothing is drawn ``exp(-strength)`` times as often as the best one.
    :param gamma: discount of `lasting_return`
    :return: (n_episodes,), whole numbers in [1, `MOST_LOTS`]
    """
    if strength == 0:
        return np.ones(len(episodes), np.int64)
    returns = np.array([lasting_return(episode, gamma) for episode in episodes])
    _, task = np.unique([episode.task for episode in episodes], return_inverse=True)
    best, largest = np.full((2, task.max() + 1), -np.inf)
    np.maximum.at(best, task, returns)
    np.maximum.at(largest, task, np.abs(returns))
    scales = largest[task]
    shortfalls = np.divide(best[task] - returns, scales, out=np.zeros_like(returns), where=scales > 0)
    return np.maximum(1, np.round(MOST_LOTS * np.exp(-strength * shortfalls))).astype(np.int64)
