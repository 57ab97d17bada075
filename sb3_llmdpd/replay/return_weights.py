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
        raise ValueError(
            f"`return_weight` above 0 goes by discounted returns: `gamma` must be in [0, 1), got {gamma}"
        )


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
        \mathrm{lots} \propto \exp\Big(-\mathrm{strength} \cdot \frac{\max G - G}{\max |G|}\Big)

    The maxima are over the episodes of its task: an episode counts by the share of the best return that it falls short of.
    Trajectories weighted by their returns keep a policy that stays near mixed data from staying near the bad majority of them
    (Hong et al., 2023, https://arxiv.org/abs/2306.13085). Standardised returns would make as much of the small differences
    between good episodes, which are those of their scenes, as of failures.

    :param episodes: of one or many tasks.
    :param strength: 0 or more; at 0 all transitions have one lot. An episode that earns nothing, of a task whose returns are
        not negative, is drawn ``exp(-strength)`` times as often as the best one.
    :param gamma: discount of `lasting_return`.
    :return: (n_episodes,), whole numbers in [1, `MOST_LOTS`].
    """
    if strength == 0:
        return np.ones(len(episodes), np.int64)
    returns = np.array([lasting_return(episode, gamma) for episode in episodes])
    _, task = np.unique([episode.task for episode in episodes], return_inverse=True)
    best, largest = np.full((2, task.max() + 1), -np.inf)
    np.maximum.at(best, task, returns)
    np.maximum.at(largest, task, np.abs(returns))
    shortfalls = np.divide(
        best[task] - returns, largest[task], out=np.zeros_like(returns), where=largest[task] > 0
    )
    return np.maximum(1, np.round(MOST_LOTS * np.exp(-strength * shortfalls))).astype(np.int64)
