"""Which library draws, and what is said where none does."""

import ctypes.util
import sys
from pathlib import Path

import pytest
from factories import make_episodes, tiny_model

from sb3_llmdpd import Prompt
from sb3_llmdpd.video import drawing_library, film_episode


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
@pytest.mark.skipif(ctypes.util.find_library("EGL") is None, reason="needs a library that draws without a screen")
def test_an_episode_becomes_an_mp4(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUJOCO_GL", "egl")
    tiny_model(dataset=make_episodes(observation_dim=39, action_dim=4)).save(tmp_path / "model.zip")
    try:
        rollout = film_episode(
            tmp_path / "film.mp4", tmp_path / "model.zip", "reach", Prompt(text="reach it"), 5, max_episode_steps=8
        )
    except RuntimeError as error:
        pytest.skip(f"the library is there and cannot draw: {error}")
    assert (rollout.length, rollout.seed) == (8, 5)
    assert (tmp_path / "film.mp4").read_bytes()[4:8] == b"ftyp"
