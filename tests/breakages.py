"""Small sound data of each format, and ways to break their files."""

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from factories import make_episodes
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.save_util import save_to_pkl
from step_files import arrays, flags, write_steps
from test_lerobot import TASKS, frames, write_v21, write_v30

from sb3_llmdpd.data.minari_writer import write_minari
from sb3_llmdpd.data.npz import write_npz

BOX = spaces.Box(-np.inf, np.inf, (3,), np.float32)
ACTIONS = spaces.Box(-1.0, 1.0, (2,), np.float32)

# Sound data -------------------------------------------------------------------


def _steps(path: Path) -> str:
    following = np.roll(arrays()["observations"], -1, axis=0)
    fields = arrays(ends=(2,), timeouts=flags(5), next_observations=following)
    write_steps(path, **fields, **{"infos/success": flags(2)})
    return path.name


def _npz(folder: Path) -> str:
    return _steps(folder / "logs.npz")


def _d4rl(folder: Path) -> str:
    return _steps(folder / "logs.hdf5")


def _own_npz(folder: Path) -> str:
    episodes = make_episodes(n_tasks=2, n_episodes=1, length=3, observation_dim=3)
    write_npz(folder / "own.npz", episodes, BOX, ACTIONS)
    return "own.npz"


def _minari(folder: Path) -> str:
    episodes = make_episodes(n_tasks=1, n_episodes=2, length=3, observation_dim=3)
    write_minari("lab/own-v0", episodes, BOX, ACTIONS, root=folder)
    return "lab/own-v0"


def _robomimic(folder: Path) -> str:
    rng = np.random.default_rng(0)
    with h5py.File(folder / "demo.hdf5", "w") as file:
        data = file.create_group("data")
        data.attrs["env_args"] = json.dumps({"env_name": "Lift", "env_lang": "lift the cube"})
        data.attrs["total"] = 6
        for number in range(2):
            demo = data.create_group(f"demo_{number}")
            demo.attrs["num_samples"] = 3
            demo.attrs["ep_meta"] = json.dumps({"lang": "lift it"})
            demo["actions"] = rng.uniform(-1, 1, (3, 2))
            demo["rewards"], demo["dones"] = np.array([0.0, 0.0, 1.0]), np.array([0, 0, 1])
            for key, size in (("eef_pos", 3), ("gripper", 2)):
                demo[f"obs/{key}"] = rng.normal(size=(3, size))
                demo[f"next_obs/{key}"] = rng.normal(size=(3, size))
    return "demo.hdf5"


def _lerobot(write: Callable[..., None]) -> Callable[[Path], str]:
    def made(folder: Path) -> str:
        write(folder / "robot", [frames(4, seed, task=seed % 2) for seed in range(2)], TASKS)
        return "robot"

    return made


def _sb3(folder: Path) -> str:
    buffer = ReplayBuffer(6, BOX, ACTIONS, device="cpu")
    for step in range(6):
        now, then = np.full((1, 3), step), np.full((1, 3), step + 1)
        info = {"TimeLimit.truncated": step == 5}
        buffer.add(now, then, np.full((1, 2), step / 8), np.ones(1), np.array([step in (2, 5)]), [info])
    save_to_pkl(folder / "buffer.pkl", buffer)
    return "buffer.pkl"


SOUND: dict[str, Callable[[Path], str]] = {
    "npz": _npz,
    "npz of write_npz": _own_npz,
    "d4rl": _d4rl,
    "robomimic": _robomimic,
    "lerobot v2.1": _lerobot(write_v21),
    "lerobot v3.0": _lerobot(write_v30),
    "minari": _minari,
    "sb3": _sb3,
}
"""Functions that write small data into a folder and return their name there, or their Minari id."""

# Breakages --------------------------------------------------------------------


class Draws:
    """Numbers that decide where and how something is broken."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)

    def one_of(self, choices: Any) -> Any:
        choices = list(choices)
        return choices[int(self.rng.integers(len(choices)))]


def _cut(content: bytes, draws: Draws) -> bytes:
    return content[: int(draws.rng.integers(len(content)))]


def _flip(content: bytes, draws: Draws) -> bytes:
    changed = bytearray(content)
    for place in draws.rng.integers(len(content), size=draws.one_of((1, 1, 4, 16))):
        changed[place] ^= int(draws.rng.integers(1, 256))
    return bytes(changed)


def _overwrite(content: bytes, draws: Draws) -> bytes:
    first, n = int(draws.rng.integers(len(content))), int(draws.rng.integers(1, 65))
    return content[:first] + draws.one_of((bytes(n), draws.rng.bytes(n))) + content[first + n :]


def _remove(content: bytes, draws: Draws) -> bytes:
    first, n = int(draws.rng.integers(len(content))), int(draws.rng.integers(1, 65))
    return content[:first] + content[first + n :]


BYTES: dict[str, Callable[[bytes, Draws], bytes]] = {
    "cut": _cut,
    "flip": _flip,
    "overwrite": _overwrite,
    "remove": _remove,
    "empty": lambda content, draws: b"",
    "another kind": lambda content, draws: b"not this at all\n",
}

ARRAYS: dict[str, Callable[[np.ndarray], Any]] = {
    "a row less": lambda a: a[:-1],
    "a row more": lambda a: np.concatenate([a, a[-1:]]),
    "no row": lambda a: a[:0],
    "an axis more": lambda a: a[:, None],
    "flat": lambda a: a.ravel(),
    "a column less": lambda a: a[..., :-1],
    "transposed": lambda a: a.T,
    "a number": lambda a: np.asarray(a).flat[0],
    "NaN": lambda a: np.where(np.arange(a.size).reshape(a.shape) == a.size // 2, np.nan, a),
    "infinite": lambda a: np.where(np.arange(a.size).reshape(a.shape) == 0, -np.inf, a),
    "huge": lambda a: a.astype(np.float64) + 1e300,
    "large whole numbers": lambda a: np.full(a.shape, 2**62),
    "negative": lambda a: -1 - np.abs(a.astype(np.float64)),
    "bytes": lambda a: a.astype(np.uint8),
    "truth values": lambda a: a.astype(bool),
    "big-endian": lambda a: a.astype(">f8"),
    "half precision": lambda a: a.astype(np.float16),
    "complex": lambda a: a.astype(complex),
    "strings": lambda a: a.astype("S8"),
    "zeros": np.zeros_like,
    "ones": np.ones_like,
}

VALUES: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    3,
    2**70,
    0.5,
    float("nan"),
    "",
    "x",
    "ö" * 300,
    "../../x",
    "{a}",
    [],
    [[]],
    {},
    [1, "a"],
    {"a": None},
)
"""Values that stand for others in JSON."""


def _changed_array(array: np.ndarray, draws: Draws) -> Any:
    change = ARRAYS[draws.one_of(ARRAYS)]
    with np.errstate(all="ignore"):
        try:
            return change(array)
        except (ValueError, TypeError, IndexError):  # a change that this array cannot have
            return np.zeros(0)


def _changed_json(value: Any, draws: Draws) -> Any:
    """Change, drop or rename one entry at any depth."""
    if isinstance(value, dict | list) and value and draws.rng.random() < 0.85:
        key = draws.one_of(value if isinstance(value, dict) else range(len(value)))
        copy = dict(value) if isinstance(value, dict) else list(value)
        what = draws.rng.random()
        if what < 0.15:
            del copy[key]
        elif what < 0.25 and isinstance(copy, dict):
            copy[f"{key}_"] = copy.pop(key)
        else:
            copy[key] = _changed_json(value[key], draws)
        return copy
    return draws.one_of(VALUES)


def _changed_text(text: str, draws: Draws) -> str:
    """Change JSON within a text, or the text itself."""
    if draws.rng.random() < 0.2:
        return str(draws.one_of(("", "{", "not json", "[]", "null", text[: len(text) // 2])))
    return json.dumps(_changed_json(json.loads(text), draws))


def _change_npz(path: Path, draws: Draws) -> None:
    with np.load(path) as file:
        fields: dict[str, Any] = dict(file)
    name = draws.one_of(fields)
    if draws.rng.random() < 0.15:
        fields[draws.one_of((f"{name}_", "observations/a", "rewards", "lengths"))] = fields.pop(name)
    elif draws.rng.random() < 0.15:
        del fields[name]
    elif fields[name].dtype.kind == "U":
        fields[name] = np.array(_changed_text(str(fields[name]), draws))
    elif draws.rng.random() < 0.05:
        fields[name] = fields[name].astype(object)
    else:
        fields[name] = _changed_array(fields[name], draws)
    np.savez(path, **fields)


def _change_hdf5(path: Path, draws: Draws) -> None:
    with h5py.File(path, "r+") as file:
        names: list[str] = []
        file.visit(names.append)
        with_attributes = [name for name in ("/", *names) if len(file[name].attrs)]
        if with_attributes and draws.rng.random() < 0.4:
            _change_attribute(file[draws.one_of(with_attributes)].attrs, draws)
            return
        name = draws.one_of(names)
        what = draws.rng.random()
        if what < 0.15:
            del file[name]
        elif what < 0.25:
            file.move(name, f"{name}_")
        elif isinstance(file[name], h5py.Group):
            del file[name]
            file[name] = draws.one_of((np.zeros(3), np.float32(1.0), "text"))
        else:
            array = file[name][()]
            del file[name]
            if what < 0.3:
                file.create_group(name)["part"] = array
            else:
                file[name] = _changed_array(np.asarray(array), draws)


def _change_attribute(attributes: Any, draws: Draws) -> None:
    name = draws.one_of(attributes)
    value = attributes[name]
    what = draws.rng.random()
    if what < 0.2:
        del attributes[name]
    elif isinstance(value, str) and what < 0.8:
        try:
            attributes[name] = _changed_text(value, draws)
        except ValueError:  # no JSON
            attributes[name] = ""
    else:
        attributes[name] = draws.one_of((-1, 2**40, 0.5, np.nan, "", "x", b"\xff", np.zeros((2, 2)), True))


def _change_parquet(path: Path, draws: Draws) -> None:
    table = pq.read_table(path)
    name = draws.one_of(table.column_names)
    index, column = table.column_names.index(name), table[name].combine_chunks()
    values = column.to_pylist()
    n = len(values)
    what = int(draws.rng.integers(9))
    if what == 0:
        table = table.drop_columns([name])
    elif what == 1:
        table = table.rename_columns([f"{each}_" if each == name else each for each in table.column_names])
    elif what == 2:
        table = table.slice(0, draws.one_of((0, n - 1)))
    elif what == 3:
        table = pa.concat_tables([table, table])
    else:
        other: list[pa.Array] = [
            pa.nulls(n, column.type),
            pa.array([str(value) for value in values]),
            pa.array([[float(i)] * i for i in range(n)]),
            pa.array([None, *values[1:]], column.type),
            pa.array(draws.rng.permutation(n) * 1.0 - 2),
            pa.array([float("nan")] * n),
            pa.array([{"a": i} for i in range(n)]),
            pa.array([2**62] * n),
            pa.array([True] * n),
        ]
        table = table.set_column(index, name, draws.one_of(other))
    pq.write_table(table, path)


def _change_json(path: Path, draws: Draws) -> None:
    lines = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
    number = int(draws.rng.integers(len(lines)))
    what = draws.rng.random()
    if path.suffix == ".jsonl" and what < 0.1:
        del lines[number]
    elif path.suffix == ".jsonl" and what < 0.2:
        lines.append(lines[number])
    else:
        lines[number] = _changed_text(lines[number], draws)
    path.write_text("\n".join(lines))


def _change_pickle(path: Path, draws: Draws) -> None:
    buffer = pickle.loads(path.read_bytes())
    name = draws.one_of(vars(buffer))
    value = getattr(buffer, name)
    if draws.rng.random() < 0.2:
        delattr(buffer, name)
    elif isinstance(value, np.ndarray):
        setattr(buffer, name, _changed_array(value, draws))
    else:
        setattr(
            buffer, name, draws.one_of((None, -1, 0, 3, 7, 0.5, "x", True, BOX, ACTIONS, spaces.Discrete(3)))
        )
    path.write_bytes(pickle.dumps(draws.one_of((buffer, buffer, buffer, vars(buffer)))))


CONTENTS: dict[str, Callable[[Path, Draws], None]] = {
    ".npz": _change_npz,
    ".hdf5": _change_hdf5,
    ".parquet": _change_parquet,
    ".json": _change_json,
    ".jsonl": _change_json,
    ".pkl": _change_pickle,
}
"""Functions that change a sound file of a kind to another sound file, with other contents."""


def break_one(folder: Path, how: str, seed: int) -> str:
    """Break one file in a folder.

    :param how: ``"contents"``, ``"deleted"``, ``"a folder"``, or one of `BYTES`.
    :param seed: decides which file is broken, and where.
    :return: the breakage in words, for whoever reads a failed test.
    """
    draws = Draws(seed)
    path = draws.one_of(sorted(path for path in folder.rglob("*") if path.is_file()))
    if how == "contents":
        CONTENTS[path.suffix](path, draws)
    elif how == "deleted":
        path.unlink()
    elif how == "a folder":
        path.unlink()
        path.mkdir()
    else:
        path.write_bytes(BYTES[how](path.read_bytes(), draws))
    return f"{how} of {path.relative_to(folder)}"


HOW = ("contents", "contents", "contents", "contents", "deleted", "a folder", *BYTES)
"""Ways to break a file; changed contents are the richest."""


def copied(sound: Path, folder: Path) -> Path:
    """Copy sound data to a folder of their own."""
    return Path(shutil.copytree(sound, folder / "data"))
