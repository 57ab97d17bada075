"""Normalised scores: what returns are worth between a random policy and an expert, and what was published."""

import json
from dataclasses import dataclass
from pathlib import Path

from sb3_llmdpd.data.loading import format_of
from sb3_llmdpd.data.minari import datasets_root
from sb3_llmdpd.evaluation.statistics import Estimate

_MINARI_KEYS = ("ref_min_score", "ref_max_score")


@dataclass(frozen=True)
class References:
    """Two returns that make a scale.

    :param random: return of a random policy: 0 on the scale.
    :param expert: return of an expert: 100.
    :param source: name of their source, for messages.
    :raises ValueError: when the expert's is not above the other.
    """

    random: float
    expert: float
    source: str

    def __post_init__(self) -> None:
        if not self.random < self.expert:
            raise ValueError(
                f"{self.source}: the reference return of an expert must be above that of a random policy, got"
                f" {self.expert} and {self.random}: mend the metadata of the data set, or leave both out"
            )

    def score(self, total_reward: float) -> float:
        """Place a return on the scale.

        :param total_reward: sum of an episode's raw rewards, or a mean of such sums.
        :return: 0 for the random policy, 100 for the expert.
        """
        return 100.0 * (total_reward - self.random) / (self.expert - self.random)

    def scored(self, total_reward: Estimate) -> Estimate:
        """Place the estimate of a mean return and its interval on the scale."""
        return Estimate(*map(self.score, (total_reward.value, total_reward.low, total_reward.high)))


D4RL_REFERENCES: dict[str, References] = {
    "halfcheetah": References(-280.178953, 12135.0, "D4RL's halfcheetah"),
    "hopper": References(-20.272305, 3234.3, "D4RL's hopper"),
    "walker2d": References(1.629008, 4592.3, "D4RL's walker2d"),
}
"""D4RL's references by robot, the same for all its data sets of one."""

PUBLISHED: dict[str, dict[str, str]] = {
    "halfcheetah": {"medium": "51.1 ± 0.5", "medium-replay": "47.8 ± 0.3", "medium-expert": "96.8 ± 0.3"},
    "hopper": {"medium": "90.5 ± 4.6", "medium-replay": "101.3 ± 0.6", "medium-expert": "111.1 ± 1.3"},
    "walker2d": {"medium": "87.0 ± 0.9", "medium-replay": "95.5 ± 1.5", "medium-expert": "110.1 ± 0.3"},
}
"""D4RL scores that Diffusion-QL was published with, by robot and quality of D4RL's version 2. They are those
of the best checkpoint by evaluation."""


def minari_references(name: str, root: str | Path | None = None) -> References | None:
    """Read the references that a Minari data set itself has, as `minari.get_normalized_score` reads them.

    :param name: name of a source that is there, see `format_of`.
    :param root: folder of the Minari data sets, see `datasets_root`.
    :return: None for other sources, and for data sets that do not say.
    :raises ValueError: when the two make no scale.
    """
    kind, dataset_id = format_of(name)
    if kind != "minari":
        return None
    metadata = json.loads((datasets_root(root) / dataset_id / "data" / "metadata.json").read_text())
    lowest, highest = (metadata.get(key) for key in _MINARI_KEYS)
    if lowest is None or highest is None:
        return None
    return References(float(lowest), float(highest), dataset_id)
