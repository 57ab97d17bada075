"""A Meta-World task as a plain Gymnasium environment that obeys seeds, gives float32 and says its task."""

import copy
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from ctypes.util import find_library
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from sb3_llmdpd.common.optional_imports import require
from sb3_llmdpd.data.checks import check_texts
from sb3_llmdpd.data.metaworld.simulator import make_simulator
from sb3_llmdpd.data.metaworld.tasks import task_info
from sb3_llmdpd.networks.metaworld_layout import GOAL, NOW, PREVIOUS, SHAPE

HORIZON = 500
"""Steps after which an episode is truncated, as in Meta-World's own benchmarks."""

OBSERVATION_SPACE = spaces.Box(-np.inf, np.inf, SHAPE, np.float32)
ACTION_SPACE = spaces.Box(-1.0, 1.0, (4,), np.float32)

_MAX_DRAWS = 1_000
"""Limit of draws for one placement; the simulator refuses those whose object is too near to its goal."""


class MetaWorldEnv(gym.Env[np.ndarray, np.ndarray]):
    """One task of Meta-World, goal and placement drawn at every reset.

    It holds the simulator's environment instead of wrapping it: Stable-Baselines3 would take a wrapped one
    for a goal-conditioned environment, and the simulator's own ``reset`` ignores its seed.

    An observation holds hand, gripper and two objects now (18 numbers) and one step ago (18), and the goal's
    position (3). ``info`` holds the simulator's report, with ``success`` of this very step, ``is_success``
    (success at any step so far) and ``task_text``.

    :param task: name of the task, a key of `tasks.TASKS`, or of `tasks.TOLD_TASKS`, whose goal stays at its
        place.
    :param seed: seed of the first episodes; ``reset(seed=...)`` seeds again.
    :param goal_visible: show the goal's position in the last three entries of an observation, else zeros.
    :param task_text: sentence in ``info``; the task's canonical one by default.
    :param max_episode_steps: steps until truncation. The simulator never terminates.
    :param render_mode: None or ``"rgb_array"``.
    :param image_size: width and height of a rendered frame, in pixels.
    :raises ValueError: on an unknown task or render mode, and an empty sentence.
    :raises ImportError: when Meta-World is not installed.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 80}  # noqa: RUF012 - gymnasium's own declaration

    def __init__(
        self,
        task: str,
        *,
        seed: int | None = None,
        goal_visible: bool = True,
        task_text: str | None = None,
        max_episode_steps: int = HORIZON,
        render_mode: str | None = None,
        image_size: int = 480,
    ) -> None:
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"`render_mode` must be None or 'rgb_array', got {render_mode!r}")
        self.task_info = task_info(task)
        self.task_name = self.task_info.name
        sentence = self.task_info.text if task_text is None else task_text
        self.task_text = check_texts(sentence, "`task_text`")[0]
        self.goal_visible = goal_visible
        self.render_mode = render_mode
        self.observation_space = copy.deepcopy(OBSERVATION_SPACE)  # each with a generator of its own
        self.action_space = copy.deepcopy(ACTION_SPACE)
        self.simulator = make_simulator(self.task_info.env_id, max_episode_steps, render_mode, image_size)
        self.layout = np.zeros(0)
        self._succeeded = False
        self._expert: Any = None
        if seed is not None:
            super().reset(seed=seed)

    @property
    def task_description(self) -> str:
        """The task's sentence, under the name that LeRobot looks for."""
        return self.task_text

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin an episode with a new goal and placement.

        :param seed: seed of goal and placement from this episode on; None continues the last seed.
        :param options: ``{"layout": env.layout}`` repeats an earlier episode's goal and placement;
            ``{"goal_of": env.layout}`` keeps its goal and places the object anew (it repeats both where the
            goal is not separate from the object, see `TaskInfo.goal_separate`). ``goal_of`` also takes the
            goal's identifier (see `goal_id`) that recorded episodes have: `Episode.goal`.
        :return: observation (39,), float32, and info.
        :raises ValueError: on an unknown option, a goal of another task, or a layout of another shape or one
            that the simulator refuses.
        """
        options = dict(options or {})
        if isinstance(options.get("goal_of"), str):
            options["goal_of"] = self._layout_of(options["goal_of"])
        super().reset(seed=seed)
        draw = self._placement(options)
        simulator = self.simulator
        simulator.curr_path_length = 0
        # A first pass, without moving the hand, finds a layout that the simulator's distance rule accepts.
        simulator._freeze_rand_vec = False
        simulator._get_state_rand_vec = draw
        simulator._reset_hand = partial(type(simulator)._reset_hand, simulator, 0)
        try:
            simulator.reset_model()
        finally:
            del simulator._get_state_rand_vec, simulator._reset_hand
        # The second pass, which is the simulator's `reset` less its first pass, shows that layout. Bodies are
        # placed before their poses are computed: a first pass alone would leave the former episode's poses.
        simulator._freeze_rand_vec = True
        simulator._last_rand_vec = self.layout
        observation, _ = require("gymnasium.envs.mujoco", "metaworld").MujocoEnv.reset(simulator)
        observation[PREVIOUS] = observation[NOW]
        simulator._prev_obs = observation[NOW].copy()
        self._succeeded = False
        return self._seen(observation), {"success": 0.0, "is_success": False, "task_text": self.task_text}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Move the hand and the gripper.

        :param action: (4,), clipped to [-1, 1]: the hand's displacement in cm, and the gripper's effort.
        :return: observation, reward (0 to 10), terminated (always False), truncated, info.
        :raises ValueError: on a wrong shape, NaN, or a step after the truncation.
        """
        action = np.asarray(action, np.float32)
        if action.shape != (4,) or not np.isfinite(action).all():
            raise ValueError(f"an action must be 4 finite numbers in [-1, 1], got {action}")
        observation, reward, terminated, truncated, info = self.simulator.step(np.clip(action, -1.0, 1.0))
        self._succeeded = self._succeeded or bool(info["success"])
        info = {**info, "is_success": self._succeeded, "task_text": self.task_text}
        return self._seen(observation), float(reward), terminated, truncated, info

    def expert_action(self, observation: np.ndarray) -> np.ndarray:
        """Ask Meta-World's scripted expert, which knows the goal even where the observation does not show it.

        :param observation: (39,), observation of this environment's current step.
        :return: (4,), float32, clipped to [-1, 1] as the simulator does.
        """
        if self._expert is None:
            self._expert = require("metaworld.policies", "metaworld").ENV_POLICY_MAP[self.task_info.env_id]()
        observation = np.array(observation, np.float64)
        observation[GOAL] = self.simulator._target_pos
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the expert warns at every step whose action the simulator clips
            action = np.asarray(self._expert.get_action(observation), np.float32)
        return np.clip(action, -1.0, 1.0)

    def render(self) -> np.ndarray:
        """Draw the scene.

        :return: (image_size, image_size, 3), uint8.
        :raises ValueError: when the environment was made without ``render_mode="rgb_array"``.
        :raises RuntimeError: when the machine has no GL library to draw with.
        """
        if self.render_mode is None:
            raise ValueError('make the environment with `render_mode="rgb_array"` to render it')
        renderer = self.simulator.mujoco_renderer
        if renderer.viewer is None and sys.platform == "linux" and find_library("EGL"):
            os.environ.setdefault("MUJOCO_GL", "egl")  # it needs no display
        try:
            # All environments of a process draw into the context made last, unless their own is made current.
            renderer._get_viewer(self.render_mode).make_context_current()
        except Exception as error:  # each GL library, where it lacks something, raises an error of its own
            raise RuntimeError(
                "cannot render: no working GL library was found. On Debian or Ubuntu install libegl1 and"
                " libgl1-mesa-dri, or name another backend with the environment variable MUJOCO_GL (egl,"
                " osmesa or glfw)"
            ) from error
        image: np.ndarray = renderer.render(self.render_mode)
        return np.ascontiguousarray(image[::-1, ::-1])  # the camera hangs upside down

    def close(self) -> None:
        """Free the simulator's renderer."""
        self.simulator.close()

    def _seen(self, observation: np.ndarray) -> np.ndarray:
        observation = observation.astype(np.float32)
        if not self.goal_visible:
            observation[GOAL] = 0.0
        return observation

    def _layout_of(self, goal: str) -> np.ndarray | None:
        """Find the layout that a goal was first drawn in, None where all scenes of the task have it."""
        task, (named, _, seed) = self.task_name, goal.partition("/")
        fits = seed.isdecimal() if self.task_info.goal_separate else goal == task
        if named != task or not fits:
            raise ValueError(f"{goal!r} is no goal of {task!r}, whose goals are like {goal_id(task, 7)!r}")
        if not seed:
            return None
        before = self.np_random
        self.reset(seed=int(seed))
        self.np_random = before
        return self.layout

    def _placement(self, options: dict[str, Any]) -> Callable[[], np.ndarray]:
        """Make the function that the simulator asks for random numbers until it accepts them."""
        task, fixed, goal_of = self.task_name, options.pop("layout", None), options.pop("goal_of", None)
        if options:
            raise ValueError(f"unknown reset options {sorted(options)}: use 'layout' or 'goal_of'")
        if goal_of is not None and not self.task_info.goal_separate:
            fixed, goal_of = goal_of, None
        space = self.simulator._random_reset_space
        for given in (fixed, goal_of):
            if given is not None and np.shape(given) != space.shape:
                raise ValueError(f"a layout of {task!r} has shape {space.shape}, got {np.shape(given)}")

        def layouts() -> Iterator[np.ndarray]:
            for _ in range(_MAX_DRAWS if fixed is None else 1):
                if fixed is not None:
                    self.layout = np.array(fixed, np.float64)
                else:
                    self.layout = self.np_random.uniform(space.low, space.high)
                    if self.task_info.goal is not None:
                        self.layout[3:] = self.task_info.goal
                    if goal_of is not None:
                        self.layout[3:] = goal_of[3:]
                yield self.layout
            raise ValueError(f"{task!r} refuses this layout: its object is too near to its goal")

        return partial(next, layouts())


def goal_id(task: str, seed: int) -> str:
    """Name a goal by its task and the seed of the reset that first drew it, which can draw it again.

    Where the goal is a part of the object, all scenes of the task share it, and it has the task's name.
    """
    return f"{task}/{seed}" if task_info(task).goal_separate else task


make_metaworld_env = MetaWorldEnv
"""The factory that vector environments are built with."""
