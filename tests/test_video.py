"""The library that draws, and the refusal where there is none."""

import ctypes.util
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from factories import make_episodes, tiny_model
from gymnasium import spaces

from sb3_llmdpd import Episode, Prompt
from sb3_llmdpd.evaluation.frames import captioned, readable, side_by_side
from sb3_llmdpd.evaluation.video import _Camera, _play_again, _Strip, _told, drawing_library, film_episodes


@pytest.fixture
def linux(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    monkeypatch.setattr(ctypes.util, "find_library", lambda name: None)
    return monkeypatch


def test_the_library_that_the_user_chose_draws(linux: pytest.MonkeyPatch) -> None:
    linux.setenv("MUJOCO_GL", "glfw")
    assert drawing_library() == "glfw"


def test_egl_draws_where_it_is_found_and_osmesa_where_it_is_alone(linux: pytest.MonkeyPatch) -> None:
    linux.setattr(ctypes.util, "find_library", lambda name: "lib")
    assert drawing_library() == "egl"
    linux.setattr(ctypes.util, "find_library", lambda name: "lib" if name == "OSMesa" else None)
    assert drawing_library() == "osmesa"


def test_a_system_with_a_library_of_its_own_needs_none(linux: pytest.MonkeyPatch) -> None:
    linux.setattr(sys, "platform", "darwin")
    assert drawing_library() is None


@pytest.mark.usefixtures("linux")
def test_without_a_library_nothing_is_written_and_the_message_names_them(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="install libEGL or libOSMesa"):
        film_episodes(tmp_path / "film.mp4", tmp_path / "model.zip", "reach", [Prompt()], [0])
    assert list(tmp_path.iterdir()) == []


def test_drawing_can_be_switched_off(linux: pytest.MonkeyPatch) -> None:
    linux.setenv("MUJOCO_GL", "disabled")
    with pytest.raises(RuntimeError, match="switched off by MUJOCO_GL=disabled"):
        drawing_library()


@pytest.mark.slow
@pytest.mark.skipif(ctypes.util.find_library("EGL") is None, reason="no library draws without a screen")
def test_an_episode_becomes_an_mp4(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUJOCO_GL", "egl")
    tiny_model(dataset=make_episodes(observation_dim=39, action_dim=4)).save(tmp_path / "model.zip")
    film, model = tmp_path / "film.mp4", tmp_path / "model.zip"
    try:
        (rollout,) = film_episodes(film, model, "reach", [Prompt("reach it")], [5], max_episode_steps=8)
    except RuntimeError as error:
        pytest.skip(f"the library is there and cannot draw: {error}")
    assert (rollout.length, rollout.seed) == (8, 5)
    assert film.read_bytes()[4:8] == b"ftyp"


def test_a_picture_has_frames_from_the_first_to_the_last(tmp_path: Path) -> None:
    imageio = pytest.importorskip("imageio.v2")
    with _Strip(tmp_path / "strip.png") as strip:
        for shade in range(0, 150, 10):  # 15 frames, of which every second is shown
            strip.append_data(np.full((3, 5, 3), shade, np.uint8))
    picture = imageio.imread(tmp_path / "strip.png")
    assert picture.shape == (6, 20, 3)
    assert picture[::3, ::5, 0].tolist() == [[0, 20, 40, 60], [80, 100, 120, 140]]


def test_a_caption_stands_below_the_frame_and_a_success_is_green():
    pytest.importorskip("PIL")
    frame = np.full((100, 240, 3), 7, np.uint8)
    plain, green = (captioned(frame, ["reach", "step 3"], is_success) for is_success in (False, True))
    assert plain.shape == green.shape
    assert (plain[:100] == frame).all()
    assert plain[100:].min() < 100  # ink
    reds, greens = green[100:, :, 0].astype(int), green[100:, :, 1].astype(int)
    assert (greens - reds).max() > 100
    assert plain[100:].std(axis=2).max() == 0


def test_a_long_line_of_a_caption_is_broken():
    pytest.importorskip("PIL")
    frame = np.zeros((10, 240, 3), np.uint8)
    short, long = (captioned(frame, ["word " * n, "step 3"]) for n in (1, 30))
    assert short.shape[0] < long.shape[0]
    assert short.shape[1] == long.shape[1] == 240


@pytest.mark.parametrize(
    ("width", "n_films", "shown"), [(64, 1, 256), (240, 4, 240), (480, 2, 480), (480, 3, 240)]
)
def test_frames_are_shown_as_large_as_a_caption_needs(width, n_films, shown):
    frame = np.zeros((width // 2, width, 3), np.uint8)
    assert readable(frame, n_films).shape == (shown // 2, shown, 3)


def test_films_side_by_side_stay_at_their_last_frame_and_fill_whole_blocks():
    long, short = (
        [np.full((10, 20, 3), shade, np.uint8) for shade in shades] for shades in ((1, 2, 3), (9,))
    )
    frames = list(side_by_side([long, short, long]))
    assert [frame.shape for frame in frames] == [(32, 48, 3)] * 3
    corners = [[frame[0, 0, 0], frame[0, 20, 0], frame[10, 0, 0], frame[10, 20, 0]] for frame in frames]
    assert corners == [[1, 9, 1, 255], [2, 9, 2, 255], [3, 9, 3, 255]]
    assert next(side_by_side([long, short], n_columns=1)).shape == (32, 32, 3)


class Lane(gym.Env):
    """A place on a line, which the seed draws; drawn as a frame of its shade."""

    observation_space = spaces.Box(-np.inf, np.inf, (1,))
    action_space = spaces.Box(-1, 1, (1,))

    def reset(self, *, seed=None, options=None):
        self.place = np.float32([seed])
        return self.place, {}

    def step(self, action):
        self.place = self.place + action
        return self.place, 0.0, False, False, {"success": self.place[0] > 6}

    def render(self):
        return np.full((8, 240, 3), int(self.place[0]), np.uint8)


@pytest.mark.parametrize(("seeds", "is_shown"), [([0, 5], True), ([0, 4], False)])
def test_an_example_is_played_again_in_the_scene_that_it_began_in(seeds, is_shown):
    pytest.importorskip("PIL")
    example = Episode(np.float32([[5], [6], [7]]), np.float32([[1], [1]]), np.zeros(2))
    camera = _Camera(Lane(), ["the example"], 1)
    assert _play_again(camera, example, seeds) == is_shown
    assert [frame[0, 0, 0] for frame in camera.frames] == ([5, 7] if is_shown else [])
    assert camera.success_at == (2 if is_shown else None)


def test_a_caption_says_what_the_model_was_told():
    example = make_episodes()[0]
    told = [_told(prompt) for prompt in (Prompt("go", example), Prompt(trajectories=[example] * 2), Prompt())]
    assert told == ["told: go, shown 1 example", "shown 2 examples", "told nothing"]


def test_an_episode_that_fails_leaves_no_picture(tmp_path: Path) -> None:
    strip = _Strip(tmp_path / "strip.png")
    strip.append_data(np.zeros((3, 5, 3), np.uint8))
    with pytest.raises(KeyError), strip:
        raise KeyError
    assert list(tmp_path.iterdir()) == []


def test_a_film_of_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a film is an \.mp4 or a \.png, got 'film.gif'"):
        film_episodes("film.gif", tmp_path / "model.zip", "reach", [Prompt()], [0])
