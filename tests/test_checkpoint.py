"""A model file that somebody else made, or that was damaged: refused with a sentence, or harmless."""

import contextlib
import io
import json
import random
import re
import resource
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from factories import make_episodes, tiny_model
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors

from sb3_llmdpd import LLMDPD, Prompt
from sb3_llmdpd.checkpoint import Checkpoint, read, values, write
from sb3_llmdpd.checkpoint.values import MOST_PARTS, MOST_RECORDED, space_from_json, space_to_json
from sb3_llmdpd.llmdpd.loss_watch import TrainingDiverged
from tools.fuzz_checkpoints import (
    damaged,
    limited_time,
    members_of,
    packed,
    with_data,
    with_other_json,
    with_other_tensors,
)

OBSERVATIONS = np.zeros((2, 5), np.float32)
NOT_WHOLE = "is not a whole model file of sb3_llmdpd"
GIB = 2**30


@pytest.fixture(scope="module")
def saved() -> bytes:
    """A small model with one of everything in its file."""
    file = io.BytesIO()
    tiny_model(policy_kwargs=dict(net_arch=[4], conditioning="cross_attention")).learn(2).save(file)
    return file.getvalue()


def load(content: bytes) -> LLMDPD:
    return LLMDPD.load(io.BytesIO(content), device="cpu")


FOREIGN = ("../../evil.safetensors", "/etc/cron.d/evil", "policy.pth", "a/policy.safetensors", "C:\\evil.dll")


@pytest.mark.parametrize("name", [*FOREIGN, "__init__.py"])
def test_a_member_that_no_model_file_has_is_refused_by_name(saved, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    holds = rf"{NOT_WHOLE} .*it holds {re.escape(repr(name))}, which is no part"
    with pytest.raises(ValueError, match=holds):
        load(packed({**members_of(saved), name: b"evil"}))
    assert list(tmp_path.iterdir()) == []


def test_a_zip_bomb_is_refused_before_it_unfolds(saved):
    zeros = b"\0" * (100 * 2**20)
    bomb = packed({**members_of(saved), "policy.safetensors": zeros}, zipfile.ZIP_DEFLATED)
    assert len(bomb) < 2**20
    refused = r"'data' is compressed, and the members .* never are"
    with limited_memory(2**26), pytest.raises(ValueError, match=refused):
        load(bomb)


def test_members_that_share_their_bytes_are_refused(saved):
    """A bomb without compression: many entries of the directory that all point to the same large member."""
    empty = {"network.safetensors": b""}
    content = bytearray(packed({**members_of(saved), **empty}))
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        large = archive.getinfo("policy.safetensors")
        at = archive.start_dir
    while content[at : at + 4] == b"PK\x01\x02":
        name_length, extra, comment = struct.unpack_from("<HHH", content, at + 28)
        if content[at + 46 : at + 46 + name_length].decode() in empty:
            struct.pack_into("<LLL", content, at + 16, large.CRC, large.compress_size, large.file_size)
        at += 46 + name_length + extra + comment
    with pytest.raises(ValueError, match="its members are larger than the file"):
        load(bytes(content))


def test_two_members_of_one_name_are_refused(saved):
    file = io.BytesIO(saved)
    with pytest.warns(UserWarning, match="Duplicate name"), zipfile.ZipFile(file, "a") as archive:
        archive.writestr("data", "{}")
    with pytest.raises(ValueError, match="two of its members have the same name"):
        load(file.getvalue())


def test_a_model_file_is_nothing_but_stored_members(saved):
    with zipfile.ZipFile(io.BytesIO(saved)) as archive:
        assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}


def test_the_same_model_gives_the_same_bytes():
    files = [io.BytesIO(), io.BytesIO()]
    for file in files:
        tiny_model().learn(2).save(file)
    assert files[0].getvalue() == files[1].getvalue()


DEEP = "[" * 100_000 + "]" * 100_000


@pytest.mark.parametrize(
    "text",
    ['{"format_version": NaN}', "[1, 2]", "7", "", "{", f'{{"a": {DEEP}}}', '{"a": ' + "9" * 5000 + "}"],
    ids=["NaN", "list", "number", "nothing", "half", "deep", "long number"],
)
def test_data_that_are_no_json_object_are_refused(saved, text):
    with pytest.raises(ValueError, match=NOT_WHOLE):
        load(with_data(saved, text))


def through_a_container(**tensors: th.Tensor) -> tuple[dict[str, th.Tensor], set[str]]:
    """Write tensors to a file and read them; and name those whose bytes are in it."""
    file = io.BytesIO()
    write(Checkpoint({}, {"network": tensors}), file)
    stored = load_safetensors(members_of(file.getvalue())["network.safetensors"])
    return dict(read(io.BytesIO(file.getvalue())).tensors["network"]), set(stored)


def test_a_tensor_with_several_names_is_stored_once_and_shared_again():
    one = th.arange(6.0).reshape(2, 3)
    found, stored = through_a_container(a=one, b=one.clone(), c=one, d=one.view(2, 3))
    assert stored == {"a", "b"}
    square = th.arange(4.0).reshape(2, 2)
    assert through_a_container(a=square, b=square.T)[0]["b"].tolist() == [[0.0, 2.0], [1.0, 3.0]]
    assert found["a"] is found["c"] is found["d"]
    assert all(th.equal(each, one) for each in found.values())


def test_tensors_that_share_their_memory_in_part_come_back_each_for_itself():
    one = th.arange(6.0).reshape(2, 3)
    parts = dict(
        whole=one, row=one[1], turned=one.T, repeated=one[:1].expand(4, 3), empty=one[:0], none=th.ones(0)
    )
    found, stored = through_a_container(**parts)
    assert stored == set(parts)
    assert all(th.equal(found[name], part) for name, part in parts.items())
    assert len({each.data_ptr() for each in found.values() if each.numel()}) == 4


@pytest.mark.parametrize(
    "tied", [{"policy": {"x": "y"}}, {"group": {"x": "y"}}, {"policy": 3}, [1], {"policy": {"x": []}}]
)
def test_names_of_tensors_that_are_not_there_are_refused(saved, tied):
    data = json.loads(members_of(saved)["data"])
    with pytest.raises(ValueError, match=NOT_WHOLE):
        load(with_data(saved, json.dumps({**data, "tied": tied})))


def test_data_are_json_to_the_letter(saved):
    def refuse(name: str) -> None:
        raise AssertionError(name)

    json.loads(members_of(saved)["data"], parse_constant=refuse)


@contextlib.contextmanager
def limited_memory(n_bytes: int) -> Iterator[None]:
    """Let the process take only so much more memory: a bomb fails instead of stopping the machine."""
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def what_becomes_of(content: bytes) -> str:
    """Load a file; a model that comes out has to act, learn and be saved like any other."""
    with limited_memory(2 * GIB), limited_time(20):
        try:
            model = load(content)
        except ValueError as error:
            return f"refused: {error}"
        try:
            prompt = Prompt("do task number 1", make_episodes()[0])
            model.predict(OBSERVATIONS, deterministic=True, prompt=prompt)
            model.set_dataset(make_episodes())
        except ValueError as error:  # spaces, goals: these are not the data of such a model
            return f"refused later: {error}"
        with contextlib.suppress(TrainingDiverged):  # of a learning rate of 1e308, say
            model.learn(1, reset_num_timesteps=False).save(io.BytesIO())
        return "a model"


def outcomes_of(change: Callable[[bytes, random.Random], bytes], saved: bytes, part: int) -> list[str]:
    return [what_becomes_of(change(saved, random.Random(part * 30 + i))) for i in range(30)]


@pytest.mark.parametrize("part", range(8))
def test_a_damaged_file_is_refused_or_harmless(saved, part):
    allowed = rf"a model$|refused: .*({NOT_WHOLE}|has format version)"
    outcomes = outcomes_of(damaged, saved, part)
    assert [outcome for outcome in outcomes if not re.match(allowed, outcome)] == []


@pytest.mark.slow
@pytest.mark.parametrize("part", range(10))
def test_a_file_that_says_something_else_is_refused_or_another_whole_model(saved, part):
    outcomes = outcomes_of(with_other_json, saved, part)
    # Only a size that is noticed before memory is asked for leaves the machine alone.
    assert [outcome for outcome in outcomes if "MemoryError" in outcome or "alloc" in outcome] == []
    assert len({outcome[:7] for outcome in outcomes}) == 2  # some are refused, and some are models


@pytest.mark.parametrize("part", range(4))
def test_other_tensors_are_refused_or_make_another_whole_model(saved, part):
    outcomes = outcomes_of(with_other_tensors, saved, part)
    assert [outcome for outcome in outcomes if not re.match("a model$|refused: ", outcome)] == []


def without(name: str) -> Callable[[dict[str, th.Tensor]], Any]:
    return lambda tensors: tensors.pop(name)


W = "actor.denoiser.from_state.weight"
LONG = {"1.exp_avg": th.zeros(99)}


@pytest.mark.parametrize(
    ("group", "change", "message"),
    [
        ("policy", without(W), f"'{W}' is a weight of the network alone"),
        ("policy", lambda t: t.update(more=th.zeros(1)), "'more' is a weight of the file alone"),
        ("policy", lambda t: t.update({W: th.zeros(3, 3)}), rf"'{W}' of the network is .*file \(3, 3\)"),
        ("policy", lambda t: t.update({W: t[W].double()}), "that of the file .*float64"),
        ("policy", lambda t: t.update({W: t[W] * np.inf}), f"in 'policy': the tensor '{W}' is not finite"),
        ("actor.optimizer", lambda t: t.update(LONG), r"the state of parameter 1 is \{.exp_avg.: \(99,"),
        ("text_table", without("vectors"), "the table of task texts lacks vectors"),
        ("generators", without("generator"), "lacks 'generator'"),
    ],
)
def test_tensors_that_do_not_fit_are_refused_by_name(saved, group, change, message):
    members = members_of(saved)
    tensors = load_safetensors(members[f"{group}.safetensors"])
    change(tensors)
    members[f"{group}.safetensors"] = save_safetensors(tensors)
    with pytest.raises(ValueError, match=message):
        load(packed(members))


@pytest.mark.parametrize("name", ["net_arch", "n_critics", "n_encoder_layers", "n_diffusion_steps"])
def test_a_few_bytes_cannot_ask_for_all_of_the_memory(saved, name):
    data = json.loads(members_of(saved)["data"])
    data["arguments"]["policy_kwargs"][name] = [10**6, 10**6] if name == "net_arch" else 10**9
    outcome = what_becomes_of(with_data(saved, json.dumps(data)))
    assert re.match("refused: ", outcome)
    assert "emory" not in outcome


def through_a_file(value: Any) -> Any:
    return json.loads(json.dumps(value, allow_nan=False))


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), [1.0, float("inf")], {"a": float("-inf")}])
def test_infinite_numbers_come_back(value):
    written = through_a_file(values.to_json(value))
    assert values.from_json(written, "value", values.no_custom_objects) == value


BOUNDS = st.floats(-1e6, 1e6, width=32) | st.just(float("inf"))
SHAPES = st.lists(st.integers(0, 3), max_size=3).map(tuple)
DTYPES = st.sampled_from([np.float32, np.float64, np.uint8, np.int64])


@st.composite
def boxes(draw: st.DrawFn) -> spaces.Box:
    shape, dtype = draw(SHAPES), draw(DTYPES)
    if not np.issubdtype(dtype, np.floating):
        return spaces.Box(draw(st.integers(0, 5)), draw(st.integers(6, 255)), shape, dtype)
    size = int(np.prod(shape))
    drawn = draw(st.lists(BOUNDS, min_size=size, max_size=size))
    bounds = np.abs(np.array(drawn)).reshape(shape).astype(dtype)
    return spaces.Box(-bounds, bounds, shape, dtype)


FLAT_SPACES = (
    boxes()
    | st.builds(spaces.Discrete, st.integers(1, 99), start=st.integers(-9, 9))
    | st.lists(st.integers(1, 9), min_size=1, max_size=4).map(spaces.MultiDiscrete)
    | (st.integers(1, 9) | st.lists(st.integers(1, 4), min_size=1, max_size=3)).map(spaces.MultiBinary)
)


DICT_SPACES = st.dictionaries(st.text(max_size=5), FLAT_SPACES, min_size=1, max_size=3).map(spaces.Dict)


@given(FLAT_SPACES | DICT_SPACES)
def test_every_space_comes_back(space):
    assert space_from_json(through_a_file(space_to_json(space))) == space


def test_the_bounds_of_an_image_take_two_numbers():
    assert len(json.dumps(space_to_json(spaces.Box(0, 255, (84, 84, 4), np.uint8)))) < 100


@pytest.mark.parametrize(
    "space",
    [
        {"type": "Box", "dtype": "float32", "shape": [10**5, 10**5], "low": 0, "high": 1},
        {"type": "Box", "dtype": "float64", "shape": [MOST_RECORDED // 8 + 1], "low": 0, "high": 1},
        {"type": "Discrete", "n": MOST_RECORDED // 4 + 1, "start": 0},
        {"type": "MultiBinary", "n": 10**12},
        {"type": "MultiDiscrete", "nvec": [MOST_RECORDED // 4, 1], "start": [0, 0], "dtype": "int64"},
        {"type": "Dict", "spaces": {str(i): {"type": "MultiBinary", "n": 1} for i in range(MOST_PARTS + 1)}},
    ],
    ids=["box", "doubles", "discrete", "binary", "multi-discrete", "parts"],
)
def test_a_space_of_too_many_entries_is_refused(space):
    with pytest.raises(ValueError, match=f"at most {MOST_RECORDED:,} bytes in {MOST_PARTS} parts are read"):
        space_from_json(space)


def test_a_space_that_no_model_can_have_is_refused():
    with pytest.raises(ValueError, match="cannot hold the space Text"):
        space_to_json(spaces.Text(5))


@pytest.mark.parametrize(
    "written",
    [
        {":unknown:": 1},
        {":numpy:": "object", "value": 1},
        {":numpy:": "int8", "value": 1000},
        {":numpy:": "int8", "value": "x"},
        {":numpy:": "int8"},
        {":member:": "mean"},
        {":dtype:": "nn"},
        {":class:": "subprocess.Popen"},
        {":schedule:": "float", "value_schedule": "x"},
        {":schedule:": "line_to_zero", "initial": "x"},
        {":schedule:": "line_to_zero"},
        {":array:": "AAAA"},
        {":tensor:": 3},
        {":path:": 3},
        {":tuple:": 3},
        {":dict:": [[[], 1]], "ordered": False},
        {":dict:": 3, "ordered": False},
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["activation_fn", "optimizer_kwargs"])
def test_values_that_nobody_wrote_are_refused(saved, written, name):
    data = json.loads(members_of(saved)["data"])
    data["arguments"]["policy_kwargs"][name] = written
    outcome = what_becomes_of(with_data(saved, json.dumps(data)))
    assert re.match("refused: ", outcome)


NESTS = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from([np.float32(0.1), th.int8]),
    lambda part: (
        st.lists(part) | st.lists(part).map(tuple) | st.dictionaries(st.text() | st.integers(), part)
    ),
    max_leaves=10,
)


@given(st.dictionaries(st.text(), NESTS))
def test_arguments_come_back_as_they_are(arguments):
    written = values.arguments_to_json(arguments)
    assert written.own == {}
    found = {
        name: values.from_json(value, name, values.no_custom_objects)
        for name, value in through_a_file(written.written).items()
    }
    assert repr(found) == repr(arguments)


def test_settings_of_a_report_are_plain_json():
    settings = {
        "a": (1, np.float32(0.5)),
        2: float("inf"),
        "path": Path("x"),
        "act": th.nn.ReLU,
        "own": object,
    }
    assert values.to_json(settings) == {
        "a": [1, 0.5],
        "2": {":float:": "inf"},
        "path": {":path:": "x"},
        "act": {":class:": "torch.nn.ReLU"},
        "own": {":custom:": "builtins.object"},
    }
