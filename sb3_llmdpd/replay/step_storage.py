"""Storage of a replay buffer's observations and actions, row by row: on the device, or mapped from a file."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch as th
from gymnasium.spaces import Box, Dict, Space

from sb3_llmdpd.data.episodes import Episode
from sb3_llmdpd.data.flat_file import FlatFile
from sb3_llmdpd.data.images import channels_first
from sb3_llmdpd.data.spaces import scale_actions
from sb3_llmdpd.type_aliases import TensorObs, to_device


class StepStorage(Protocol):
    """Rows of observations (environment units) and actions (in [-1, 1]): T + 1 for an episode of T steps."""

    def take(self, rows: np.ndarray) -> tuple[TensorObs, th.Tensor]:
        """Read observations and actions.

        :param rows: (B,)
        :return: (B, *obs_shape) or a dict of such tensors, and (B, action_dim)
        """

    def observations(self, rows: np.ndarray) -> TensorObs:
        """Read observations alone.

        :param rows: (B,)
        :return: (B, *obs_shape), or a dict of such tensors
        """

    def to(self, device: th.device) -> None:
        """Move the tensors to a device, where later reads appear as well.

        :param device: target device
        """


class ResidentStorage:
    """All rows as tensors on the device, episode after episode.

    :param episodes: episodes in the order of their rows
    :param observation_space: space of the model, which says where the channels of images are
    :param action_space: space of the data
    :param device: device of the tensors
    """

    def __init__(
        self, episodes: Sequence[Episode], observation_space: Space[Any], action_space: Box, device: th.device
    ) -> None:
        parts: list[Any] = [channels_first(episode.observations, observation_space) for episode in episodes]
        if isinstance(observation_space, Dict):
            joined: Any = {key: np.concatenate([part[key] for part in parts]) for key in observation_space}
        else:
            joined = np.concatenate(parts)
        flat = [episode.actions.reshape(len(episode), -1) for episode in episodes]
        actions = np.concatenate([np.vstack([rows, np.zeros_like(rows[:1])]) for rows in flat])
        self._observations = to_device(joined, device)
        scaled = scale_actions(actions, action_space.low.ravel(), action_space.high.ravel())
        self._actions = th.as_tensor(scaled, dtype=th.float32, device=device)
        self._device = device

    def take(self, rows: np.ndarray) -> tuple[TensorObs, th.Tensor]:
        """See `StepStorage.take`."""
        return self.observations(rows), self._rows(self._actions, rows)

    def observations(self, rows: np.ndarray) -> TensorObs:
        """See `StepStorage.observations`."""
        if isinstance(self._observations, dict):
            return {key: self._rows(value, rows) for key, value in self._observations.items()}
        return self._rows(self._observations, rows)

    def to(self, device: th.device) -> None:
        """See `StepStorage.to`."""
        self._device, self._actions = device, self._actions.to(device)
        self._observations = to_device(self._observations, device)

    def _rows(self, array: th.Tensor, rows: np.ndarray) -> th.Tensor:
        return array.index_select(0, th.from_numpy(rows).to(self._device))


class MappedStorage:
    """Rows that are read from a file when they are asked for.

    :param file: file whose records have the fields ``observations`` and ``actions``, in environment units
    :param observation_space: space of the model, which says where the channels of images are
    :param action_space: space of the data
    :param device: device of the batches
    """

    def __init__(
        self, file: FlatFile, observation_space: Space[Any], action_space: Box, device: th.device
    ) -> None:
        self._file, self._device = file, device
        self._observation_space = observation_space
        self._low, self._high = action_space.low.ravel(), action_space.high.ravel()

    def take(self, rows: np.ndarray) -> tuple[TensorObs, th.Tensor]:
        """See `StepStorage.take`."""
        records = self._file.take(rows)
        actions = scale_actions(records["actions"].reshape(len(rows), -1), self._low, self._high)
        return self._observations_of(records), th.from_numpy(actions).to(self._device)

    def observations(self, rows: np.ndarray) -> TensorObs:
        """See `StepStorage.observations`."""
        return self._observations_of(self._file.take(rows))

    def to(self, device: th.device) -> None:
        """See `StepStorage.to`."""
        self._device = device

    def _observations_of(self, records: np.ndarray) -> TensorObs:
        field = records["observations"]
        names = field.dtype.names
        observations = field if names is None else {name: field[name] for name in names}
        ordered: Any = channels_first(observations, self._observation_space)
        if isinstance(ordered, dict):
            return {name: self._tensor(part) for name, part in ordered.items()}
        return self._tensor(ordered)

    def _tensor(self, array: np.ndarray) -> th.Tensor:
        return th.from_numpy(np.ascontiguousarray(array)).to(self._device)
