"""Makes Meta-World's own environment of a task, with faster versions of two methods that give the same."""

import copy
from functools import cache
from typing import Any

import numpy as np

from sb3_llmdpd.common.optional_imports import require

_CAMERA = "corner2"
_CAMERA_POSITION = (0.75, 0.075, 0.7)

_models: dict[tuple[str, int, int], Any] = {}
"""Model that was compiled last, as it came from the compiler, by its file and the size of a frame. One is
enough: many environments are made task by task."""


def make_simulator(env_id: str, max_episode_steps: int, render_mode: str | None, image_size: int) -> Any:
    """Make the simulator's environment of a task, ready to be reset, whose observations show the goal.

    The arguments are those of `MetaWorldEnv`; ``env_id`` is the simulator's own name of the task.
    """
    make = _made_fast(require("metaworld.env_dict", "metaworld").ENV_CLS_MAP[env_id])
    simulator = make(render_mode=render_mode, camera_name=_CAMERA, width=image_size, height=image_size)
    simulator.max_path_length = max_episode_steps
    # As `set_task` does, without a task: every observation holds the goal, and the bounds that the simulator
    # clips observations to are computed again to hold it.
    simulator._set_task_called = True
    simulator._partially_observable = False
    simulator.__dict__.pop("sawyer_observation_space", None)
    simulator.seeded_rand_vec = True
    if render_mode is not None:
        camera = simulator.model.camera(_CAMERA)
        camera.pos[:] = _CAMERA_POSITION
        # no anti-aliasing and no shadows: 15 times faster without a GPU
        simulator.model.vis.quality.offsamples = simulator.model.vis.quality.shadowsize = 0
    return simulator


@cache
def _made_fast(simulator_class: Any) -> Any:
    """Derive a class that compiles a task's model once, and looks through contacts as arrays."""

    def initialize_simulation(self: Any) -> tuple[Any, Any]:
        key = (self.fullpath, self.width, self.height)
        if key not in _models:
            _models.clear()
            _models[key], _ = simulator_class._initialize_simulation(self)
        model = copy.copy(_models[key])  # each environment places bodies in its own
        return model, require("mujoco", "metaworld").MjData(model)

    methods = {"_initialize_simulation": initialize_simulation, "touching_object": touching_object}
    return type(simulator_class.__name__, (simulator_class,), methods)


def touching_object(simulator: Any, object_geom_id: int) -> bool:
    """Tell if both pads of the gripper press on a geometry: the forces of the contacts of either add up to
    more than 0. The simulator's method visits each contact twice in Python.
    """
    data = simulator.data
    pairs = data.contact.geom  # (n_contacts, 2)
    with_object = (pairs == object_geom_id).any(axis=1)
    if not with_object.any():
        return False
    forces = data.efc_force[data.contact.efc_address[with_object]]
    pads = (data.geom(name).id for name in ("leftpad_geom", "rightpad_geom"))
    return all(np.sum(forces, where=(pairs[with_object] == pad).any(axis=1)) > 0 for pad in pads)
