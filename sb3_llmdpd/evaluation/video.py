"""Films one episode of a prompted model, in a process of its own that can draw without a screen."""

import ctypes.util
import os
import sys
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path
from typing import Any, Self

import gymnasium as gym
import numpy as np
import torch as th

from sb3_llmdpd.common.files import whole_file
from sb3_llmdpd.common.optional_imports import require
from sb3_llmdpd.common.processes import worker_pool
from sb3_llmdpd.data.checks import listed
from sb3_llmdpd.evaluation.metaworld_suite import METAWORLD_SUITE
from sb3_llmdpd.evaluation.players import ModelPlayer
from sb3_llmdpd.evaluation.rollouts import Rollout, run_episodes
from sb3_llmdpd.evaluation.suite import Suite, time_limit
from sb3_llmdpd.llmdpd.llmdpd import LLMDPD
from sb3_llmdpd.prompts.prompt import Prompt

_DRAWN = "rgb_array"
_STEPS_PER_FRAME = 4  # without an accelerator a frame costs as much as fifty steps of the simulator
_STRIP = (2, 4)  # rows and columns of the frames in a picture
_GL_VARIABLE = "MUJOCO_GL"
_GL_LIBRARIES = {"egl": "EGL", "osmesa": "OSMesa"}
_GL_IS_OFF = ("disable", "disabled", "off", "false", "0")


def film_episode(
    path: str | Path,
    model_path: str | Path,
    task: str,
    prompt: Prompt,
    seed: int,
    *,
    goal: str | None = None,
    suite: Suite = METAWORLD_SUITE,
    max_episode_steps: int | None = None,
    trust_encoder: bool = False,
) -> Rollout:
    """Write an mp4 of one episode, or a picture of some of its frames.

    :param path: path of an mp4, or of a png with evenly spaced frames from the first to the last, row by row.
    :param model_path: file of the model that acts, without noise.
    :param task: task whose scene is filmed.
    :param prompt: the model's prompt.
    :param seed: seed of the episode.
    :param goal: goal of the scene, as in `Episode.goal`; None leaves it to the seed.
    :param suite: makes the environment; Meta-World by default. Its ``render()`` gives (height, width, 3),
        uint8.
    :param max_episode_steps: steps after which the episode ends; by default the environment's time limit.
    :param trust_encoder: as for `LLMDPD.load`.
    :return: outcome of the episode.
    :raises ValueError: when the path ends in neither .mp4 nor .png, or the environment has no time limit, or
        does not draw itself.
    :raises ImportError: without imageio.
    :raises RuntimeError: where nothing can draw; its message says what is missing.
    """
    check_film(path)
    require("imageio_ffmpeg", "video")
    library = _library_for(suite)
    facts = suite.facts(task)
    if _DRAWN not in facts.render_modes:
        raise ValueError(
            f"the environment of {task!r} cannot be filmed: a film needs the render mode {_DRAWN!r}, and its"
            f" `metadata` names {listed(facts.render_modes)}"
        )
    limit = max_episode_steps or time_limit({task: facts}, suite.max_episode_steps)
    with whole_file(path) as temporary, worker_pool(1, _use, library) as pool:
        make = partial(suite.make_env, task, _DRAWN)
        scene = {"seeds": [seed], "goals": [goal], "max_steps": limit}
        job = pool.submit(_film, temporary, model_path, trust_encoder, prompt, make, **scene)
        try:
            return job.result()
        except (BrokenProcessPool, ImportError, RuntimeError, AttributeError) as error:
            # A driver that cannot start raises any of these.
            raise RuntimeError(f"drawing with {library or 'the default library'} failed: {error}") from error


def check_film(path: str | Path) -> None:
    """Refuse a path that ends in neither .mp4 nor .png, by a ValueError, before a film is begun."""
    if Path(path).suffix not in (".mp4", ".png"):
        raise ValueError(f"a film is an .mp4 or a .png, got {str(path)!r}")


def _library_for(suite: Suite) -> str | None:
    """Choose a library; None where there is none and the environments may do without."""
    try:
        return drawing_library()
    except RuntimeError:
        if suite.draws_with_mujoco:
            raise
        return None


def drawing_library() -> str | None:
    """Choose how MuJoCo draws without a screen: the value of $MUJOCO_GL, or a library that is found.

    :return: a value for $MUJOCO_GL; None where the system needs none.
    :raises RuntimeError: when there is no such library, or drawing is switched off.
    """
    if chosen := os.environ.get(_GL_VARIABLE):
        if chosen.lower() in _GL_IS_OFF:
            raise RuntimeError(f"drawing is switched off by {_GL_VARIABLE}={chosen}")
        return chosen
    if sys.platform != "linux":
        return None
    for name, library in _GL_LIBRARIES.items():
        if ctypes.util.find_library(library):
            return name
    raise RuntimeError("no library that draws without a screen was found: install libEGL or libOSMesa")


class _Camera(gym.Wrapper[Any, Any, Any, Any]):
    """Writes a frame every few steps."""

    def __init__(self, env: gym.Env[Any, Any], writer: Any) -> None:
        super().__init__(env)
        self.writer = writer
        self.n_steps = 0

    def step(self, action: Any) -> Any:
        if self.n_steps % _STEPS_PER_FRAME == 0:
            self.writer.append_data(self.render())
        self.n_steps += 1
        return self.env.step(action)


class _Strip:
    """Takes frames as a writer of videos does, and leaves one picture of some of them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.frames: list[np.ndarray] = []

    def append_data(self, frame: np.ndarray) -> None:
        self.frames.append(frame)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            rows, columns = _STRIP
            chosen = np.linspace(0, len(self.frames) - 1, rows * columns).round().astype(int)
            strips = [
                np.concatenate([self.frames[index] for index in row], axis=1)
                for row in chosen.reshape(rows, columns)
            ]
            require("imageio.v2", "video").imwrite(self.path, np.concatenate(strips))


def _use(library: str | None) -> None:
    """Choose the library before MuJoCo is imported, which reads the variable once."""
    if library is not None:
        os.environ[_GL_VARIABLE] = library


def _film(
    path: Path, model_path: str | Path, trust_encoder: bool, prompt: Prompt, make_env: Any, **scene: Any
) -> Rollout:
    th.set_num_threads(1)
    player = ModelPlayer(LLMDPD.load(model_path, device="cpu", trust_encoder=trust_encoder))
    act = player.make_act([prompt], noise_seed=0, deterministic=True)
    env = make_env()
    fps = env.metadata.get("render_fps", 30) / _STEPS_PER_FRAME
    is_picture = path.suffix == ".png"
    with _Strip(path) if is_picture else require("imageio.v2", "video").get_writer(path, fps=fps) as writer:
        (rollout,) = run_episodes([_Camera(env, writer)], act, **scene)
    env.close()
    return rollout
