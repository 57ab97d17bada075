"""A file that somebody made to harm: refused with a sentence, soon and with little memory, by all loaders."""

import io
import json
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from expect import refused
from factories import make_episodes, tiny_model
from hostile_files import BOMBS, changed, with_tensors
from safetensors.torch import load as load_safetensors
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor

from sb3_llmdpd import LLMDPD, LLMDPDPolicy, Prompt
from sb3_llmdpd.checkpoint.container import quoted, told
from sb3_llmdpd.llmdpd.actor import PromptedActor
from sb3_llmdpd.llmdpd.critic import PromptedCritic
from tools.fuzz_checkpoints import members_of, packed, with_data

OBSERVATIONS = np.random.default_rng(0).standard_normal((3, 5)).astype(np.float32)
W = "actor_target.denoiser.from_state.weight"


class Own(BaseFeaturesExtractor):
    """Belongs to the user."""

    def __init__(self, space: Any, width: int = 4) -> None:
        super().__init__(space, width)
        self.layer = th.nn.Linear(space.shape[0], width)

    def forward(self, observations: th.Tensor) -> th.Tensor:
        return self.layer(observations)


CUSTOM: dict[str, Any] = {"features_extractor_class": Own}


def file_of(part: Any) -> bytes:
    file = io.BytesIO()
    part.save(file)
    return file.getvalue()


@pytest.fixture(scope="module")
def model() -> LLMDPD:
    return tiny_model().learn(1)


@pytest.fixture(scope="module")
def saved(model: LLMDPD) -> bytes:
    return file_of(model)


@pytest.fixture(scope="module")
def own() -> bytes:
    """File of a model with a class of the user's own."""
    return file_of(tiny_model(policy_kwargs=CUSTOM).learn(1))


def load(content: bytes, **kwargs: Any) -> LLMDPD:
    return LLMDPD.load(io.BytesIO(content), device="cpu", **kwargs)


def act(model: Any, **kwargs: Any) -> np.ndarray:
    return model.predict(OBSERVATIONS, **{"deterministic": True, "prompt": Prompt(), **kwargs})[0]


# Time and memory ------------------------------------------------------------------------------------------

IN_ANOTHER_PROCESS = """
import json
import sys

sys.path[:0] = sys.argv[1:]
from hostile_files import told_of_bombs

print(json.dumps(told_of_bombs()))
"""


@pytest.fixture(scope="module")
def bombs() -> dict[str, tuple[float, float, str]]:
    """Load each bomb in another process, and tell its seconds of the processor, MB, and error."""
    tests = Path(__file__).parent
    command = [sys.executable, "-c", IN_ANOTHER_PROCESS, str(tests), str(tests.parent)]
    finished = subprocess.run(command, env=os.environ, capture_output=True, text=True, check=True)
    return json.loads(finished.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_within_a_second_and_300_mb(bombs, name):
    seconds, megabytes, error = bombs[name]
    assert re.search(BOMBS[name].message, error)
    assert (seconds < 1.0, megabytes < 300.0) == (True, True), (seconds, megabytes)


def test_an_extractor_of_ones_own_is_no_way_round_the_sizes(own):
    loaded = load(own, custom_objects=CUSTOM)
    assert loaded.policy_kwargs["features_extractor_class"] is Own
    wide = changed(own, lambda data: data["arguments"]["policy_kwargs"].update(net_arch=[20_000] * 2))
    with refused(r"'actor.denoiser.trunk.\d.bias' is a weight of the network alone"):
        load(wide, custom_objects=CUSTOM)


class OwnPolicy(LLMDPDPolicy):
    """Belongs to the user."""


def test_a_policy_of_ones_own_is_no_way_round_the_sizes():
    content = file_of(tiny_model(policy=OwnPolicy))
    assert type(load(content, custom_objects={"policy": OwnPolicy}).policy) is OwnPolicy
    wide = changed(content, lambda data: data["arguments"]["policy_kwargs"].update(net_arch=[20_000] * 2))
    with refused(r"describe networks of 9,6\d\d,\d+,\d+ bytes, and it holds \d+,\d+"):
        load(wide, custom_objects={"policy": OwnPolicy})


# Numbers --------------------------------------------------------------------------------------------------

NAN = float("nan")


@pytest.mark.parametrize(
    ("group", "name"),
    [
        ("policy", W),
        ("text_table", "vectors"),
        ("text_table", "probe"),
        ("actor.optimizer", "0.exp_avg"),
        ("critic.optimizer", "0.exp_avg_sq"),
    ],
)
@pytest.mark.parametrize("custom", [None, CUSTOM], ids=["known classes", "a class of the user's"])
def test_a_tensor_that_is_not_finite_is_refused_whatever_is_custom(saved, own, group, name, custom):
    content = saved if custom is None else own
    with refused(f"in '{group}': the tensor '{name}' is not finite"):
        load(with_tensors(content, group, {name: NAN}), custom_objects=custom)


def test_a_metric_that_is_not_finite_is_refused_in_a_file_and_left_out_of_one(saved, model):
    members = members_of(saved)
    (name, *_) = load_safetensors(members["metrics.safetensors"])
    with refused(f"in 'metrics': the tensor '{name}' is not finite"):
        load(with_tensors(saved, "metrics", {name: float("inf")}))
    sums = dict(model._metrics.sums)
    model._metrics.sums = {**sums, "loss": th.tensor(NAN)}
    assert set(load(file_of(model))._metrics.sums) == set(sums)
    model._metrics.sums = sums


def of_zeros(content: bytes, *but: str) -> bytes:
    tensors = load_safetensors(members_of(content)["policy.safetensors"])
    return with_tensors(content, "policy", {name: 0.0 for name in tensors if not name.endswith(but)})


def test_weights_of_zero_are_refused_for_a_scale_of_zero(saved):
    with refused("'actor.feature_normaliser.scale' has entries that are not above 0"):
        load(of_zeros(saved, " "))


def test_weights_of_zero_with_sound_scales_are_the_network_that_does_nothing(saved):
    """It may be loaded: a network of zeros is one, as that of a training with a rate of 0 from zeros."""
    assert act(load(of_zeros(saved, ".scale"))).tolist() == [[0.0, 0.0]] * 3


@pytest.mark.parametrize("value", [1e20, 3e38])
def test_weights_beyond_all_sense_are_refused(saved, value):
    tensors = load_safetensors(members_of(saved)["policy.safetensors"])
    with refused("its (actions|values) for an observation of zeros are not finite"):
        load(with_tensors(saved, "policy", dict.fromkeys(tensors, value)))


@pytest.mark.parametrize("kind", ["policy", "actor", "critic"])
def test_a_network_alone_has_to_compute_something_finite(model, kind):
    loader, part = LOADERS[kind], getattr(model, kind)
    tensors = load_safetensors(members_of(file_of(part))["network.safetensors"])
    with refused("for an observation of zeros are not finite"):
        loader(io.BytesIO(with_tensors(file_of(part), "network", dict.fromkeys(tensors, 3e38))))


@pytest.mark.parametrize("name", ["model", "policy", "actor"])
def test_predict_names_the_row_of_an_action_that_is_not_finite(name):
    model = tiny_model()
    model.set_task(prompt=Prompt())
    acting = model if name == "model" else getattr(model, name)
    with th.no_grad():
        for actor in (model.actor, model.actor_target):
            actor.denoiser.from_state.weight[:, 0] = 3e38  # what is not the mean becomes infinite
    rows = np.repeat(model.actor.feature_normaliser.mean.numpy()[None], 3, axis=0)
    assert np.isfinite(acting.predict(rows, deterministic=True)[0]).all()
    rows[1] += 5
    with refused("the action of row 1 of 3 is not finite: look for NaN .* in its observation"):
        acting.predict(rows, deterministic=True)


@pytest.mark.parametrize("deterministic", [True, False])
def test_a_choice_by_values_that_are_not_finite_is_refused(deterministic):
    choosing = tiny_model(n_candidates=3, candidate_temperature=1.0)
    with th.no_grad():
        choosing.critic_target.q_networks.trunk[-1].bias.fill_(th.inf)
    with refused("the action of row 0 of 3 is not finite"):
        act(choosing, deterministic=deterministic)


def generator_with(change: Callable[[np.ndarray], Any]) -> th.Tensor:
    generator = th.Generator().manual_seed(0)
    th.randn(1, generator=generator)  # keeps the second of a pair of normal numbers
    state = generator.get_state().numpy()
    return th.as_tensor(change(state))


def with_nan(state: np.ndarray) -> np.ndarray:
    state[-32:-24] = np.frombuffer(np.float64(NAN).tobytes(), np.uint8)
    return state


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state[:-1], "5055.* is no state of a generator"),
        (lambda state: state[None], r"\(1, 5056\) of torch.uint8 is no state"),
        (lambda state: state.astype(np.float32), "torch.float32 is no state"),
        (with_nan, "in 'generators.action_generator': it draws numbers that are not finite"),
    ],
    ids=["size", "shape", "kind", "NaN"],
)
def test_states_of_generators_are_checked(saved, change, message):
    with refused(message):
        load(with_tensors(saved, "generators", {"action_generator": generator_with(change)}))


@pytest.mark.parametrize("change", [{"inc": 2}, {"more": 1}, {"state": 2**128}], ids=str)
def test_the_state_of_numpys_generator_is_checked(saved, change):
    with refused("in 'buffer_generator'"):
        load(changed(saved, lambda data: data["buffer_generator"]["state"].update(change)))


# Sentences ------------------------------------------------------------------------------------------------


LOADERS: dict[str, Callable[..., Any]] = {
    "model": partial(LLMDPD.load, device="cpu"),
    "policy": partial(LLMDPDPolicy.load, device="cpu"),
    "actor": partial(PromptedActor.load, device="cpu"),
    "critic": partial(PromptedCritic.load, device="cpu"),
}
EVIL = "\x1b[31m\n" + "x" * 10_000


def arguments_of(data: dict[str, Any]) -> Any:
    return data["arguments"].get("policy_kwargs", data["arguments"])


@pytest.mark.parametrize("kind", LOADERS)
@pytest.mark.parametrize(
    ("change", "entry"),
    [
        (lambda data: arguments_of(data).update(net_arch=EVIL), "net_arch"),
        (lambda data: arguments_of(data).update(net_arch=[EVIL]), "net_arch"),
        (lambda data: arguments_of(data).update({EVIL: 1}), "xxx"),
        (lambda data: arguments_of(data).update(token_dim=None), "token_dim"),
        (lambda data: arguments_of(data).update(conditioning=[EVIL] * 99), "conditioning"),
        (lambda data: arguments_of(data).update(activation_fn={":class:": EVIL}), "activation_fn"),
        (lambda data: arguments_of(data).update(activation_fn={":float:": "inf", EVIL: 1}), ":float:"),
        (lambda data: data.update(arguments=EVIL), "arguments"),
        (lambda data: data.update(observation_space={"type": EVIL}), "observation_space"),
        (lambda data: data.update(action_space=3), "action_space"),
        (lambda data: data["action_space"].pop("low"), "'low'"),
        (lambda data: data.update({EVIL: 1}), "entry"),
        (lambda data: data.update(tied={"policy": {EVIL: EVIL}}), "tied"),
        (lambda data: data.pop("action_space"), "lacks 'action_space'"),
    ],
    ids=range(14),
)
def test_every_loader_names_file_and_entry_and_escapes_what_it_quotes(model, kind, change, entry, tmp_path):
    path = tmp_path / "evil.zip"
    path.write_bytes(changed(file_of(model if kind == "model" else getattr(model, kind)), change))
    with pytest.raises(ValueError, match=re.escape(entry)) as caught:
        LOADERS[kind](path)
    text = str(caught.value)
    assert text.startswith(str(path))
    assert text.isprintable()
    assert "x" * 201 not in text


@pytest.mark.parametrize("kind", ["model", "policy", "actor"])
def test_actions_without_bounds_are_refused(model, kind):
    content = file_of(model if kind == "model" else getattr(model, kind))
    with refused("`low`|the ranges of its actions for an observation of zeros are not finite|finite"):
        LOADERS[kind](io.BytesIO(changed(content, unbounded)))


def unbounded(data: dict[str, Any]) -> None:
    data["action_space"]["low"] = {":float:": "-inf"}


def test_what_is_quoted_is_one_line_of_at_most_200_characters():
    assert quoted("a\n\x1b\u202e") == r"'a\n\x1b\u202e'"
    assert [len(quoted(each)) for each in ("x" * 999, ["x" * 300] * 300)] == [200, 200]


def test_a_long_sentence_of_ours_is_told_to_its_end():
    sentence = f"in 'tau': the model's file {'has words ' * 25}for `tau`: pass 'tau'"
    assert told(ValueError(sentence)) == sentence
    assert told(KeyError("x" * 999)) == f"KeyError: '{'x' * 195}...'"


@pytest.mark.parametrize("version", [True, 2.0, "2", None, [2], 0, 3, 10**30], ids=repr)
def test_the_format_version_is_a_whole_number_that_is_known(saved, version):
    with refused(r"has format version .*reads versions 1 and 2"):
        load(changed(saved, lambda data: data.update(format_version=version)))


def raw(content: bytes, place: str, text: str) -> bytes:
    """Put a text in the place of another one in the JSON of a file."""
    data = members_of(content)["data"].decode()
    assert place in data
    return with_data(content, data.replace(place, text, 1))


@pytest.mark.parametrize(
    ("place", "text", "message"),
    [
        ('"counters": {', '"counters": {"num_timesteps": 1,', "the key 'num_timesteps' stands twice"),
        ('"tau": 0.005', '"tau": 1e999', "the number 1e999 is larger than any float"),
        ('"num_timesteps": 1', '"num_timesteps": 1e999', "the number 1e999 is larger than any float"),
        ('"num_timesteps": 1', '"num_timesteps": 1.5', "counts 1.5 for 'num_timesteps'"),
        ('"num_timesteps": 1', '"num_timesteps": true', "counts True for 'num_timesteps'"),
        ('"num_timesteps": 1', '"num_timesteps": 1, "more": 1', "the counter 'more', which this version"),
        ('"callbacks": [', '"callbacks": [{"callback": 1, "numbers": {}},', "callback is no string"),
        ('"callbacks": [', '"callbacks": [{"more": 1},', "in 'callbacks': .*more"),
        ('"encoder_name": ', '"encoder_name": 3, "x": ', "the entry 'x', which this version"),
        ('"encoder_revision": ""', '"encoder_revision": 3', "'text_table.encoder_revision' has 3 where"),
        ('"do task number 0"', "0", "'text_table.texts' has 0 where a sentence"),
        ('"only_task": null', '"only_task": [3]', "'only_task' has 3 where a sentence"),
        ('"only_task": null', '"only_task": "go"', "'only_task' is 'go', and no list"),
        ('"policy": "MlpPolicy"', '"policy": ":custom:"', "policy ':custom:' is none of MlpPolicy"),
        ('"text_encoder": "hashing"', '"text_encoder": 3', "`text_encoder` must be a string or None"),
        ('"dtype": "float32"', '"dtype": "S2000000000"', "dtype 'S2000000000'"),
        ('"dtype": "float32"', '"dtype": "float32", "more": 1', "has the key 'more'"),
    ],
)
def test_what_no_writer_writes_is_refused(saved, place, text, message):
    with refused(message):
        load(raw(saved, place, text))


@pytest.mark.parametrize("marker", [":float:", ":tuple:", ":class:", ":path:", ":dtype:", ":array:"])
def test_an_object_with_a_telling_key_has_no_other(saved, marker):
    written = {marker: "inf", ":custom:": "x"}
    with refused(f"in 'arguments.tau': an object of the kind '{marker}' has the key ':custom:'"):
        load(changed(saved, lambda data: data["arguments"].update(tau=written)))


def test_a_group_that_a_model_has_not_is_refused(saved):
    members = members_of(saved)
    with refused("the group of tensors 'network', which this version does not know"):
        load(packed({**members, "network.safetensors": members["metrics.safetensors"]}))


def test_what_a_strange_system_prints_is_escaped(saved, capsys):
    content = packed({**members_of(saved), "system_info.txt": b"OS: \x1b[31mred\nmore"})
    load(content, print_system_info=True)
    assert capsys.readouterr().out.endswith("OS: \\x1b[31mred\nmore\n")


def test_parameters_of_a_strange_file_are_refused_and_change_nothing(saved):
    model = tiny_model(seed=1)
    before = act(model)
    with refused("in 'policy': the tensor .* is not finite"):
        model.set_parameters(io.BytesIO(with_tensors(saved, "policy", {W: NAN})))
    tensors = load_safetensors(members_of(saved)["policy.safetensors"])
    with refused("for an observation of zeros are not finite"):
        model.set_parameters(io.BytesIO(with_tensors(saved, "policy", dict.fromkeys(tensors, 3e38))))
    assert np.array_equal(act(model), before)


def readers() -> list[Callable[[Path], Any]]:
    """Our own, and the one that the docs show."""
    page = (Path(__file__).parents[1] / "docs" / "reference" / "model_file.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    (reader,) = [block for block in blocks if "def read_model" in block]
    namespace: dict[str, Any] = {}
    exec(reader, namespace)
    return [LOADERS["model"], namespace["read_model"]]


def with_shape(content: bytes) -> bytes:
    """Let the header of a group name a shape that needs more bytes than there are."""
    members = members_of(content)
    header = members["metrics.safetensors"]
    length = 8 + int.from_bytes(header[:8], "little")
    longer = header[8:length].replace(b'"shape":[]', b'"shape":[9]', 1)
    members["metrics.safetensors"] = len(longer).to_bytes(8, "little") + longer + header[length:]
    return packed(members)


@pytest.mark.parametrize(
    "change",
    [
        lambda content: packed({**members_of(content), "policy.pth": b""}),
        lambda content: packed({**members_of(content), "more.safetensors": b""}),
        lambda content: packed(members_of(content), zipfile.ZIP_DEFLATED),
        lambda content: content[: len(content) // 2],
        lambda content: with_tensors(content, "policy", {W: NAN}),
        lambda content: with_tensors(content, "text_table", {"vectors": NAN}),
        with_shape,
        lambda content: changed(content, lambda data: data.update(format_version=True)),
        lambda content: changed(content, lambda data: data.update(format_version=2.0)),
        lambda content: changed(content, lambda data: data.update(format_version=3)),
        lambda content: raw(content, '"tau": 0.005', '"tau": 0.005, "tau": 0.005'),
        lambda content: raw(content, '"tau": 0.005', '"tau": 1e999'),
        lambda content: raw(content, '"tau": 0.005', '"tau": NaN'),
        lambda content: with_data(content, "[2]"),
    ],
    ids=range(14),
)
def test_the_reader_of_the_docs_refuses_what_load_refuses(saved, change, tmp_path):
    path = tmp_path / "model.zip"
    path.write_bytes(saved)
    for read in readers():
        read(path)
    path.write_bytes(change(saved))
    for read in readers():
        with pytest.raises((ValueError, zipfile.BadZipFile)):
            read(path)


@pytest.mark.slow
def test_changed_files_are_refused_or_act_and_touch_nothing_but_themselves():
    """The command of the docs, in a process of its own: an audit hook stays for good."""
    command = [sys.executable, "-m", "tools.fuzz_checkpoints", "--mutations", "63", "--seed", "1"]
    finished = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert re.search(r"^all +63 ", finished.stdout, flags=re.MULTILINE)
    assert "audit events but the opening of the file: 0" in finished.stdout


def test_a_model_with_a_state_that_is_not_finite_is_not_saved_over_a_good_one(tmp_path):
    model = tiny_model(dataset=make_episodes()).learn(1)
    model.save(tmp_path / "model")
    before = (tmp_path / "model.zip").read_bytes()
    weight = next(iter(model.actor.parameters()))
    model.actor.optimizer.state[weight]["exp_avg"].fill_(NAN)
    with pytest.raises(RuntimeError, match=r"has diverged: '0.exp_avg' of actor.optimizer is not finite"):
        model.save(tmp_path / "model")
    assert (tmp_path / "model.zip").read_bytes() == before
