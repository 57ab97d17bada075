"""The observations and actions of a replay buffer, row by row: on the device, or mapped from a file."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch as th
from gymnasium import spaces

from sb3_llmdpd.data.episodes import Episode
from sb3_llmdpd.data.flat_file import FlatFile
from sb3_llmdpd.data.images import channels_first
from sb3_llmdpd.data.spaces import scale_actions
from sb3_llmdpd.type_aliases import TensorObs, to_device


class Steps(Protocol):
    """Rows of observations (environment units) and actions (in [-1, 1]); an episode of T steps has T + 1 of them."""

    def take(self, rows: np.ndarray) -> tuple[TensorObs, th.Tensor]:
        """Observations and actions.

        :param rows: (B,).
        :return: (B, *obs_shape) or a dict of such tensors, and (B, action_dim).
        """
        ...

    def observations(self, rows: np.ndarray) -> TensorObs:
        """Observations alone.

        :param rows: (B,).
        :return: (B, *obs_shape), or a dict of such tensors.
        """
        ...

    def to(self, device: th.device) -> None:
        """Give them on another device from now on.

        :param device: which.
        """
        ...


class ResidentSteps:
    """All rows as tensors on the device, episode after episode.

    :param episodes: in the order of their rows.
    :param observation_space: of the model; images are given with their channels where it has them.
    :param action_space: of the data.
    :param device: where to.
    """

    def __init__(
        self,
        episodes: Sequence[Episode],
        observation_space: spaces.Space[Any],
        action_space: spaces.Box,
        device: th.device,
    ) -> None:
        parts: list[Any] = [channels_first(episode.observations, observation_space) for episode in episodes]
        keys = list(observation_space.spaces) if isinstance(observation_space, spaces.Dict) else None
        joined = (
            np.concatenate(parts)
            if keys is None
            else {key: np.concatenate([part[key] for part in parts]) for key in keys}
        )
        flat = [episode.actions.reshape(len(episode), -1) for episode in episodes]
        actions = np.concatenate([np.vstack([rows, np.zeros_like(rows[:1])]) for rows in flat])
        self._observations = to_device(joined, device)
        scaled = scale_actions(actions, action_space.low.ravel(), action_space.high.ravel())
        self._actions = th.as_tensor(scaled, dtype=th.float32, device=device)
        self._device = device

    def take(self, rows: np.ndarray) -> tuple[TensorObs, th.Tensor]:
        """See `Steps.take`."""
        return self.observations(rows), self._rows(self._actions, rows)

    def observations(self, rows: np.ndarray) -> TensorObs:
        """See `Steps.observations`."""
        if isinstance(self._observations, dict):
            return {key: self._rows(value, rows) for key, value in self._observations.items()}
        return self._rows(self._observations, rows)

    def to(self, device: th.device) -> None:
        """See `Steps.to`."""
        self._device, self._actions = device, self._actions.to(device)
        self._observations = to_device(self._observations, device)

    def _rows(self, array: th.Tensor, rows: np.ndarray) -> th.Tensor:
        return array.index_select(0, th.from_numpy(rows).to(self._device))


class MappedSteps:
    """Rows read from a file when they are asked for.

    :param file: whose records have the fields ``observations`` and ``actions``, in environment units.
    :param observation_space: of the model; images are given with their channels where it has them.
    :param action_space: of the data.
    :param device: where batches appear.
    """

    def __init__(
        self,
        file: FlatFile,
        observation_space: spaces.Space[Any],
        action_space: spaces.Box,
        device: th.device,
    ) -> None:
        self._file = file
        self._observation_space = observation_space
        self._low, self._high = action_space.low.ravel(), action_space.high.ravel()
        self._device = device

    def take(self, rows: np.ndarray) -> tuple[TensorObs, th.Tensor]:
        """See `Steps.take`."""
        records = self._file.take(rows)
        actions = scale_actions(records["actions"].reshape(len(rows), -1), self._low, self._high)
        return self._observations_of(records), th.from_numpy(actions).to(self._device)

    def observations(self, rows: np.ndarray) -> TensorObs:
        """See `Steps.observations`."""
        return self._observations_of(self._file.take(rows))

    def to(self, device: th.device) -> None:
        """See `Steps.to`."""
        self._device = device

    def _observations_of(self, records: np.ndarray) -> TensorObs:
        field = records["observations"]
        names = field.dtype.names
        observations = field if names is None else {name: field[name] for name in names}
        together: Any = channels_first(observations, self._observation_space)
        if names is None:
            return th.from_numpy(np.ascontiguousarray(together)).to(self._device)
        return {
            name: th.from_numpy(np.ascontiguousarray(part)).to(self._device)
            for name, part in together.items()
        }
