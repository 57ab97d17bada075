"""The exported program: the actions of `predict`, for any number of observations, without this package."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from factories import TINY_POLICY, differing, make_episodes, tiny_model, with_dicts
from gymnasium import spaces
from numpy.testing import assert_allclose
from test_cli import run

from sb3_llmdpd import LLMDPD, Episode, OfflineDataset, Prompt
from sb3_llmdpd.llmdpd.export import ABOUT, write_vectors
from sb3_llmdpd.networks.attention import CONDITIONINGS

TEXT = "do task number 1"
SHORT, LONG = make_episodes(length=20)[0], make_episodes(length=70, seed=1)[0]
PROMPTS = {
    "a sentence": Prompt(TEXT),
    "an example": Prompt(trajectory=LONG),
    "both": Prompt(TEXT, LONG),
    "several examples": Prompt(TEXT, trajectories=[SHORT, LONG, SHORT]),
    "nothing": Prompt(),
}


def program(path: Path) -> Any:
    return th.export.load(path).module()


def inputs_of(model: LLMDPD, prompt: Prompt) -> dict[str, np.ndarray]:
    """Write a prompt as the inputs of a program."""
    examples = prompt.trajectories
    told: dict[str, np.ndarray] = {
        "example_observations": np.zeros((1, 5), np.float32),
        "example_actions": np.zeros((1, 2), np.float32),
        "example_lengths": np.array([len(each.actions) for each in examples] or [0]),
    }
    if examples:
        told["example_observations"] = np.concatenate([each.observations[:-1] for each in examples])
        told["example_actions"] = np.concatenate([each.actions for each in examples])
    if model.text_table is not None:
        told["text_vector"] = np.zeros(model.policy.text_dim, np.float32)
        if prompt.text is not None:
            told["text_vector"] = model.text_table.lookup([prompt.text])[0]
        told["has_text"] = np.array(prompt.has_text)
    return told


def assert_acts_as_predict(model: LLMDPD, acts: Any) -> None:
    for prompt in PROMPTS.values():
        if prompt.has_text and model.text_table is None:
            continue
        for n in (1, 2, 5):
            observations = np.random.default_rng(n).standard_normal((n, 5)).astype(np.float32)
            expected, _ = model.predict(observations, deterministic=True, prompt=prompt)
            assert_allclose(acts(observations, inputs_of(model, prompt)), expected, atol=1e-5)


def short_chain(conditioning: str, **kwargs: Any) -> LLMDPD:
    """Make a model of two diffusion steps, whose program is written in less time."""
    policy = dict(TINY_POLICY, conditioning=conditioning, n_diffusion_steps=2)
    return tiny_model(policy_kwargs=policy, **kwargs).learn(3)


@pytest.mark.slow
def test_a_program_takes_any_prompt_beside_the_observations(tmp_path):
    model = short_chain("retrieval")  # the others are written to ONNX below, by the same way
    acts = program(model.export(tmp_path / "actor", prompt_as_input=True))

    def by_torch(observations, prompt):
        told = {name: th.as_tensor(value) for name, value in prompt.items()}
        return acts(th.from_numpy(observations), **told).numpy()

    assert_acts_as_predict(model, by_torch)


@pytest.mark.slow
@pytest.mark.parametrize("conditioning", CONDITIONINGS)
def test_onnxruntime_takes_any_prompt_beside_the_observations(conditioning, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    model = short_chain(conditioning)
    session = onnxruntime.InferenceSession(model.export(tmp_path / "actor.onnx", prompt_as_input=True))
    assert_acts_as_predict(model, lambda o, prompt: session.run(None, {"observations": o, **prompt})[0])


@pytest.mark.slow
def test_a_model_without_sentences_takes_examples_alone(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    model = short_chain("concat", dataset=make_episodes(texts=False), text_encoder=None)
    session = onnxruntime.InferenceSession(model.export(tmp_path / "actor.onnx", prompt_as_input=True))
    names = {"observations", "example_observations", "example_actions", "example_lengths"}
    assert {each.name for each in session.get_inputs()} == names
    assert_acts_as_predict(model, lambda o, prompt: session.run(None, {"observations": o, **prompt})[0])


@pytest.mark.slow
def test_onnxruntime_takes_dicts_by_key_and_the_noise_of_the_policy(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    model = tiny_model(policy="MultiInputPolicy", dataset=with_dicts(make_episodes())).learn(1)
    observations = {"a": np.ones((3, 2), np.float32), "b": np.ones((3, 3), np.float32)}
    noise = th.randn((5, 3, 2), generator=th.Generator().set_state(model.action_generator.get_state()))
    expected, _ = model.predict(observations, task_text=TEXT)
    session = onnxruntime.InferenceSession(model.export(tmp_path / "actor.onnx", TEXT, deterministic=False))
    feed = {f"observations.{key}": value for key, value in observations.items()}
    assert_allclose(session.run(None, {**feed, "noise": noise.numpy()})[0], expected, atol=1e-5)


@pytest.mark.slow
def test_onnxruntime_gives_whole_numbers_where_the_actions_are(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    rng = np.random.default_rng(0)
    episodes = [
        Episode(rng.normal(size=(11, 5)), rng.integers(-3, 4, (10, 2)), np.zeros(10), task_texts=(TEXT,))
        for _ in range(4)
    ]
    data = OfflineDataset.from_episodes(episodes, action_space=spaces.Box(-3, 3, (2,), np.int64))
    model = tiny_model(dataset=data).learn(1)
    observations = rng.normal(size=(9, 5)).astype(np.float32)
    session = onnxruntime.InferenceSession(model.export(tmp_path / "actor.onnx"))
    (actions,) = session.run(None, {"observations": observations})
    assert actions.dtype == np.int64
    assert actions.tolist() == model.predict(observations, deterministic=True)[0].tolist()


@pytest.mark.slow
def test_both_kinds_of_file_say_what_goes_in_and_comes_out(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    model = short_chain("concat")
    session = onnxruntime.InferenceSession(model.export(tmp_path / "actor.onnx", TEXT))
    extra = {ABOUT: ""}
    th.export.load(model.export(tmp_path / "actor.pt2", TEXT), extra_files=extra)
    about = session.get_modelmeta().custom_metadata_map
    assert about == json.loads(extra[ABOUT])
    assert json.loads(about["inputs"]) == {
        "observations": "(rows, 5) float32: in environment units, one a row"
    }
    assert about["actions"] == "(rows, 2) float32: in environment units"
    assert json.loads(about["action_low"]) == model.action_space.low.tolist()
    assert about["task_text"] == TEXT


def test_without_the_packages_of_onnx_the_message_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ImportError, match=r"pip install 'sb3-llmdpd\[onnx\]'"):
        tiny_model().export(tmp_path / "actor.onnx", TEXT)
    assert list(tmp_path.iterdir()) == []


def test_a_task_beside_the_prompt_as_an_input_is_refused(tmp_path):
    with pytest.raises(ValueError, match="is told its task when it runs: pass no task"):
        tiny_model().export(tmp_path / "actor", TEXT, prompt_as_input=True)


@pytest.mark.parametrize("told", [dict(trajectory=SHORT), dict(prompt_as_input=True)])
def test_a_model_that_moves_examples_is_not_exported_with_one(told, tmp_path):
    model = tiny_model(alignment=lambda example, scene: example)
    with pytest.raises(ValueError, match=r"and no program can: set model\.alignment = None"):
        model.export(tmp_path / "actor", **told)


def test_the_vectors_of_sentences_are_a_file_of_numpy(tmp_path):
    model = tiny_model()
    table = model.text_table.extended(["never heard of"])
    with np.load(write_vectors(model, tmp_path / "vectors", ["never heard of"])) as file:
        assert file["texts"].tolist() == list(table.texts)
        assert file["vectors"].tolist() == table.vectors.tolist()


@pytest.mark.parametrize(("limit", "counts"), [(0.95, False), (-1.0, True)])
def test_the_file_of_vectors_says_which_sentences_count_beside_an_example(limit, counts, tmp_path):
    model = tiny_model(text_beside_example=limit)
    with np.load(write_vectors(model, tmp_path / "vectors", ["never heard of"])) as file:
        assert file["beside_examples"].tolist() == [True] * len(model.text_table) + [counts]


def test_a_model_without_sentences_has_no_vectors_to_write(tmp_path):
    with pytest.raises(ValueError, match="trained without sentences, and there are no vectors"):
        write_vectors(tiny_model(text_encoder=None), tmp_path / "vectors")


@pytest.fixture
def model_file(tmp_path):
    tiny_model().save(tmp_path / "model.zip")
    return tmp_path / "model.zip"


def test_the_command_exports_one_task_and_the_vectors(model_file, tmp_path):
    said = run(
        "export --format pt2 --sentence unheard --task-text",
        TEXT,
        *("--model", model_file, "--out", tmp_path / "policy", "--vectors", tmp_path / "vectors.npz"),
    )
    assert said.exit_code == 0, said.output
    assert f"The program is {tmp_path / 'policy.pt2'}. It takes observations\n" in said.output
    assert "unheard" in np.load(tmp_path / "vectors.npz")["texts"]
    observations = np.ones((2, 5), np.float32)
    expected, _ = LLMDPD.load(model_file).predict(observations, deterministic=True, task_text=TEXT)
    acts = program(tmp_path / "policy.pt2")
    assert_allclose(acts(th.from_numpy(observations)).numpy(), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ("--out policy.bin", "--out ends in .pt2 or .onnx, or --format says which; got 'policy.bin'"),
        ("--format tflite", "--format must be one of pt2, onnx, got 'tflite'"),
        ("--out policy.pt2 --format onnx", "--out is 'policy.pt2', and --format onnx: leave one of them out"),
        ("--sentence go", "--sentence needs --vectors, the file that its vector goes to"),
        ("--n-examples 2", "--n-examples and --example-task need --example, where the examples are"),
    ],
)
def test_what_the_command_cannot_do_is_one_sentence(options, sentence, model_file):
    said = run(f"export {options} --model", model_file)
    assert (said.exit_code, said.output) == (2, f"Error: {sentence}\n")


@pytest.mark.parametrize("n", [1, 2, 100])
@pytest.mark.parametrize("conditioning", CONDITIONINGS)
def test_a_program_acts_as_predict_does(conditioning, n, tmp_path):
    model = tiny_model(policy_kwargs=dict(conditioning=conditioning)).learn(3)
    task = dict(task_text=TEXT, trajectory=make_episodes()[0])
    path = model.export(tmp_path / "actor", **task)
    assert path == tmp_path / "actor.pt2"
    observations = np.random.default_rng(0).standard_normal((n, 5)).astype(np.float32)
    expected, _ = model.predict(observations, deterministic=True, **task)
    assert_allclose(program(path)(th.from_numpy(observations)).numpy(), expected, atol=1e-5)


def test_a_program_with_noise_draws_what_the_policy_draws(tmp_path):
    model = tiny_model().learn(3)
    observations = np.random.default_rng(0).standard_normal((4, 5)).astype(np.float32)
    noise = th.randn((5, 4, 2), generator=th.Generator().set_state(model.action_generator.get_state()))
    expected, _ = model.predict(observations, task_text=TEXT)
    acts = program(model.export(tmp_path / "actor", TEXT, deterministic=False))
    assert_allclose(acts(th.from_numpy(observations), noise).numpy(), expected, atol=1e-5)


def test_a_program_takes_the_steps_of_the_models_sampler(tmp_path):
    model = tiny_model(sampler="ddim", n_sampling_steps=2).learn(3)
    observations = np.zeros((4, 5), np.float32)
    acts = program(model.export(tmp_path / "actor", TEXT, deterministic=False))
    assert acts(th.from_numpy(observations), th.zeros(2, 4, 2)).shape == (4, 2)


def test_a_program_of_dict_observations_takes_dicts(tmp_path):
    model = tiny_model(policy="MultiInputPolicy", dataset=with_dicts(make_episodes()))
    observations = {"a": np.ones((3, 2), np.float32), "b": np.ones((3, 3), np.float32)}
    expected, _ = model.predict(observations, deterministic=True, task_text=TEXT)
    acts = program(model.export(tmp_path / "actor", TEXT))
    actions = acts({key: th.from_numpy(value) for key, value in observations.items()})
    assert_allclose(actions.numpy(), expected, atol=1e-5)


@pytest.mark.slow
def test_a_program_runs_without_this_package(tmp_path):
    model = tiny_model().learn(3)
    path = model.export(tmp_path / "actor.pt2", TEXT)
    code = (
        "import sys, torch; sys.modules['sb3_llmdpd'] = None;"
        f" acts = torch.export.load({str(path)!r}).module(); print(acts(torch.ones(1, 5)).tolist()[0])"
    )
    how: Any = dict(check=True, capture_output=True, text=True, cwd=tmp_path)
    said = subprocess.run([sys.executable, "-c", code], **how).stdout
    expected, _ = model.predict(np.ones(5, np.float32), deterministic=True, task_text=TEXT)
    assert_allclose(eval(said), expected, atol=1e-5)


def test_the_task_that_is_set_is_exported(tmp_path):
    model = tiny_model()
    model.set_task(TEXT)
    expected, _ = model.predict(np.ones((1, 5), np.float32), deterministic=True)
    assert_allclose(program(model.export(tmp_path / "actor"))(th.ones(1, 5)).numpy(), expected, atol=1e-5)


def test_several_tasks_in_one_program_are_refused(tmp_path):
    with pytest.raises(ValueError, match="a program is for one task, got 2 prompts: export one for each"):
        tiny_model().export(tmp_path / "actor", task_text=[TEXT, TEXT])
    assert list(tmp_path.iterdir()) == []


def test_a_program_without_a_task_is_refused(tmp_path):
    with pytest.raises(ValueError, match="does not know which task to do"):
        tiny_model().export(tmp_path / "actor")


def test_exporting_changes_nothing_in_the_model(tmp_path):
    def learned(export: bool) -> LLMDPD:
        model = tiny_model().learn(3)
        if export:
            model.export(tmp_path / "actor", TEXT)
        return model.learn(6, reset_num_timesteps=False)

    assert differing(learned(True).policy, learned(False).policy) == set()
