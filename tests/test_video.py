"""The library that draws, and the refusal where there is none."""

import ctypes.util
import sys
from pathlib import Path

import numpy as np
import pytest
from factories import make_episodes, tiny_model

from sb3_llmdpd import Prompt
from sb3_llmdpd.evaluation.video import _Strip, drawing_library, film_episode


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
        film_episode(tmp_path / "film.mp4", tmp_path / "model.zip", "reach", Prompt(), 0)
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
        rollout = film_episode(film, model, "reach", Prompt(text="reach it"), 5, max_episode_steps=8)
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


def test_an_episode_that_fails_leaves_no_picture(tmp_path: Path) -> None:
    strip = _Strip(tmp_path / "strip.png")
    strip.append_data(np.zeros((3, 5, 3), np.uint8))
    with pytest.raises(KeyError), strip:
        raise KeyError
    assert list(tmp_path.iterdir()) == []


def test_a_film_of_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a film is an \.mp4 or a \.png, got 'film.gif'"):
        film_episode("film.gif", tmp_path / "model.zip", "reach", Prompt(), 0)
