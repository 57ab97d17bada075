"""Films episodes of a prompted model, in a process of its own that can draw without a screen."""

import ctypes.util
import os
import sys
from collections.abc import Sequence
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
from sb3_llmdpd.data.checks import entries_of, listed
from sb3_llmdpd.data.episodes import Episode
from sb3_llmdpd.data.metadata import success_of_step
from sb3_llmdpd.evaluation.frames import captioned, readable, side_by_side
from sb3_llmdpd.evaluation.metaworld_suite import METAWORLD_SUITE
from sb3_llmdpd.evaluation.players import ModelPlayer
from sb3_llmdpd.evaluation.rollouts import Rollout, run_episodes
from sb3_llmdpd.evaluation.suite import Suite, time_limit
from sb3_llmdpd.llmdpd.llmdpd import LLMDPD
from sb3_llmdpd.prompts.prompt import Prompt, take

_DRAWN = "rgb_array"
_STEPS_PER_FRAME = 4  # without an accelerator a frame costs as much as fifty steps of the simulator
_SAME_SCENE = 1e-4
"""Largest difference between the first observations of one scene."""
_STRIP, _STRIP_OF_PAIR, _STRIP_OF_MANY = (2, 4), (4, 2), (2, 2)
"""Rows and columns of the frames in a picture: of one film, of two side by side, and of more."""
_GL_VARIABLE = "MUJOCO_GL"
_GL_LIBRARIES = {"egl": "EGL", "osmesa": "OSMesa"}
_GL_IS_OFF = ("disable", "disabled", "off", "false", "0")


def film_episodes(
    path: str | Path,
    model_path: str | Path,
    task: str,
    prompts: Sequence[Prompt],
    seeds: Sequence[int],
    *,
    goals: Sequence[str | None] | None = None,
    suite: Suite = METAWORLD_SUITE,
    max_episode_steps: int | None = None,
    trust_encoder: bool = False,
    example_seeds: Sequence[int] = (),
) -> list[Rollout]:
    """Write an mp4 of episodes side by side, or a picture of some of its frames.

    A caption says the task, what the model was told, the step and the success. Where a prompt's first example
    can be played again, it is shown left of the model's try: its actions, in a scene that begins as it did.

    :param path: path of an mp4, or of a png with evenly spaced frames from the first to the last, row by row.
    :param model_path: file of the model that acts, without noise.
    :param task: task whose scenes are filmed.
    :param prompts: the model's prompt in each episode.
    :param seeds: seed of each episode.
    :param goals: goals of the scenes, as in `Episode.goal`; None leaves them to the seeds.
    :param suite: makes the environment; Meta-World by default. Its ``render()`` gives (height, width, 3),
        uint8.
    :param max_episode_steps: steps after which an episode ends; by default the environment's time limit.
    :param trust_encoder: as for `LLMDPD.load`.
    :param example_seeds: seeds of resets that the examples may have begun with.
    :return: outcome of each episode.
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
        scene = {"seeds": seeds, "goals": goals, "max_steps": limit}
        model = (model_path, trust_encoder)
        job = pool.submit(_film, temporary, model, task, prompts, example_seeds, make, **scene)
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
    """Keeps a frame with a caption every few steps.

    :param env: environment that draws itself.
    :param lines: first lines of the caption.
    :param n_films: films that are shown side by side.
    """

    def __init__(self, env: gym.Env[Any, Any], lines: Sequence[str], n_films: int) -> None:
        super().__init__(env)
        self.lines, self.n_films = lines, n_films
        self.frames: list[np.ndarray] = []
        self.n_steps = 0
        self.success_at: int | None = None

    def step(self, action: Any) -> Any:
        if self.n_steps % _STEPS_PER_FRAME == 0:
            self.take()
        self.n_steps += 1
        outcome = self.env.step(action)
        if self.success_at is None and success_of_step(outcome[-1]):
            self.success_at = self.n_steps
        return outcome

    def take(self) -> None:
        """Keep a frame of the scene as it is now."""
        frame = readable(self.render(), self.n_films)  # type: ignore[arg-type]  # drawn as an array
        state = f"step {self.n_steps}" + (f", success at {self.success_at}" if self.success_at else "")
        self.frames.append(captioned(frame, [*self.lines, state], self.success_at is not None))


class _Strip:
    """Takes frames as a writer of videos does, and leaves one picture of some of them.

    :param path: the png.
    :param places: rows and columns of the frames that are shown.
    """

    def __init__(self, path: Path, places: tuple[int, int] = _STRIP) -> None:
        self.path, self.places = path, places
        self.frames: list[np.ndarray] = []

    def append_data(self, frame: np.ndarray) -> None:
        self.frames.append(frame)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            rows, columns = self.places
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
    path: Path,
    model: tuple[str | Path, bool],
    task: str,
    prompts: Sequence[Prompt],
    example_seeds: Sequence[int],
    make_env: Any,
    **scene: Any,
) -> list[Rollout]:
    th.set_num_threads(1)
    model_path, trust_encoder = model
    player = ModelPlayer(LLMDPD.load(model_path, device="cpu", trust_encoder=trust_encoder))
    act = player.make_act(prompts, noise_seed=0, deterministic=True)
    examples = [_first_example(prompt) for prompt in prompts]
    n_films = len(prompts) + sum(example is not None for example in examples)
    tries = [_Camera(make_env(), [task, _told(prompt)], n_films) for prompt in prompts]
    rollouts = run_episodes(tries, act, **scene)
    shown = [_Camera(make_env(), [task, "the example, played again"], n_films) for _ in prompts]
    again = [
        example is not None and _play_again(camera, example, example_seeds)
        for camera, example in zip(shown, examples, strict=True)
    ]
    for camera in tries:
        camera.take()
    films = [
        camera.frames
        for example, own, is_shown in zip(shown, tries, again, strict=True)
        for camera in ([example] if is_shown else []) + [own]
    ]
    n_columns = _columns(len(prompts)) if all(again) else None
    fps = tries[0].metadata.get("render_fps", 30) / _STEPS_PER_FRAME
    with _writer(path, fps, len(films)) as writer:
        for frame in side_by_side(films, n_columns):
            writer.append_data(frame)
    for camera in (*tries, *shown):
        camera.close()
    return rollouts


def _writer(path: Path, fps: float, n_films: int) -> Any:
    """Open a film, or a picture of fewer frames the more films are in each."""
    if path.suffix != ".png":
        return require("imageio.v2", "video").get_writer(path, fps=fps)
    return _Strip(path, {1: _STRIP, 2: _STRIP_OF_PAIR}.get(n_films, _STRIP_OF_MANY))


def _columns(n_episodes: int) -> int:
    """Count the films in a row where each example is left of its try: one pair, or two of several."""
    return 2 if n_episodes == 1 else 4


def _told(prompt: Prompt) -> str:
    """Say in a caption what the model was told."""
    parts = [f"told: {prompt.text}"] if prompt.text is not None else []
    if n := len(prompt.trajectories):
        parts.append(f"shown {n} example{'s' * (n > 1)}")
    return ", ".join(parts) or "told nothing"


def _first_example(prompt: Prompt) -> Episode | None:
    return prompt.trajectory if isinstance(prompt.trajectory, Episode) else None


def _play_again(camera: _Camera, example: Episode, seeds: Sequence[int]) -> bool:
    """Play an example's actions in a scene that begins as it did; tell whether a seed gives that scene."""
    for seed in seeds:
        begin, _ = camera.reset(seed=seed)
        known, found = entries_of(take(example.observations, 0)), entries_of(begin)
        if known.keys() == found.keys() and all(
            np.allclose(known[key], found[key], atol=_SAME_SCENE) for key in known
        ):
            for action in example.actions[: example.prompt_length]:
                camera.step(action)
            camera.take()
            return True
    return False
