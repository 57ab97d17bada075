"""Changes model files at random and loads them: `python -m tools.fuzz_checkpoints`.

Each changed file has to be refused with a sentence, or to be another model that acts finitely. Loading it may
open the file itself and nothing else, start nothing and import nothing. It may take a second and 300 MB. The
summary says how many files of each kind were refused, and what the worst one took; with `--write`, the docs
quote it. What goes wrong is listed with the number of the change, which `--only` makes again, and the command
then ends with 1.
"""

import argparse
import io
import json
import math
import random
import re
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor

from sb3_llmdpd import LLMDPD, Episode, Prompt
from sb3_llmdpd.common.files import whole_file
from sb3_llmdpd.llmdpd.actor import PromptedActor
from sb3_llmdpd.llmdpd.critic import PromptedCritic

PAGE = Path(__file__).parents[1] / "docs" / "reference" / "model_file.md"
"""The page that quotes the summary."""
MOST_SECONDS, MOST_BYTES = 1.0, 300 * 2**20
"""Limits of loading a file: seconds of the processor, and memory beyond that of the process."""
HANGS_AFTER = 60
"""Seconds on the clock."""
SMALL = dict(
    net_arch=[8], text_embedding_dim=4, trajectory_embedding_dim=4, token_dim=4, n_encoder_layers=1, n_heads=2
)
"""Sizes of the networks, so that a file is loaded in hundredths of a second."""

Change = Callable[[bytes, random.Random], bytes]


def members_of(content: bytes) -> dict[str, bytes]:
    """Read the members of a zip by name."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def packed(members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    """Write members into a zip."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def with_data(content: bytes, text: str) -> bytes:
    """Put another text in the place of a file's JSON."""
    return packed({**members_of(content), "data": text.encode()})


def damaged(content: bytes, rng: random.Random) -> bytes:
    """Cut a file off, lengthen it, or flip bits: anywhere, in the directory at its end, in its headers."""
    changed = bytearray(content)
    kind = rng.randrange(5)
    if kind == 0:
        return bytes(changed[: rng.randrange(len(changed))])
    if kind == 1:
        at = rng.randrange(len(changed))
        return bytes(changed[:at] + rng.randbytes(rng.randrange(1, 50)) + changed[at:])
    low, high = [(0, len(content)), (len(content) - 700, len(content)), (0, 60)][kind - 2]
    for _ in range(2):
        changed[rng.randrange(low, high)] ^= 1 << rng.randrange(8)
    return bytes(changed)


_RAW = "raw JSON: "
VALUES: list[Any] = [
    *(None, True, False, -1, 0, 1, 2, 3, 7, 1.5, -0.5, 1e308, 10**6, 10**9, 10**12, 10**30, 2**31, 2**63),
    *("", "x", "os.system", [], {}, [1], [[1]], {"a": 1}, [10**9], [20_000] * 2, [4] * 1_000, "../../evil"),
    *("\x1b[31m\n", "x" * 10_000, ["x" * 300] * 300, ":custom:", "hashing:1", "transformers:/", "float64"),
    *({":class:": name} for name in ("torch.nn.ReLU", "torch.nn.Softmax", "torch.optim.Adam", "os.system")),
    *({":custom:": "x"}, {":schedule:": "cosine", "initial": 1}, {":float:": "nan"}, {":float:": "inf"}),
    *({":float:": "inf", ":custom:": "x"}, {":tuple:": [1, 2]}, {":dict:": [[1, 2]], "ordered": False}),
    *({":serialized:": "gASV"}, {":numpy:": "float32", "value": 1.5}, {":path:": "/etc/passwd"}),
    *({":dtype:": "float16"}, {":array:": "AAAA"}, {"type": "Discrete", "n": 4, "start": 0}),
    *(f"{_RAW}{text}" for text in ("1e999", "NaN", '{"a": 1, "a": 2}', "9" * 5_000, "[" * 2_000)),
]
"""Values in the place of others."""


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """List every place in a JSON value."""
    yield path
    keys: Any = value if isinstance(value, dict) else ()
    for key in range(len(value)) if isinstance(value, list) else keys:
        yield from places(value[key], (*path, key))


def with_other_json(content: bytes, rng: random.Random) -> bytes:
    """Take one value of `data` away, add one, or replace it by another."""
    data = json.loads(members_of(content)["data"])
    part = rng.choice(sorted(data))  # first a part, so that long ones do not get all of it
    *path, last = rng.choice([(part, *place) for place in places(data[part])])
    parent = data
    for key in path:
        parent = parent[key]
    kind = rng.random()
    if kind < 0.2:
        del parent[last]
    elif kind < 0.3 and isinstance(parent, dict):
        parent[rng.choice(["more", ":custom:", ":float:", "\x1b[31m\n", "x" * 10_000])] = rng.choice(VALUES)
    else:
        parent[last] = rng.choice(VALUES)
    text = json.dumps(data)
    for value in VALUES:
        if isinstance(value, str) and value.startswith(_RAW):
            text = text.replace(json.dumps(value), value.removeprefix(_RAW))
    return with_data(content, text)


def with_other_tensors(content: bytes, rng: random.Random) -> bytes:
    """Take a tensor away, rename it, or change its values, kind or shape; or cut the bytes of a group."""
    members = members_of(content)
    group = rng.choice([name for name in members if name.endswith(".safetensors")])
    if rng.random() < 0.1:
        members[group] = members[group][: rng.randrange(len(members[group]))]
        return packed(members)
    tensors = load_safetensors(members[group])
    if not tensors:
        return packed(members)
    name = rng.choice(sorted(tensors))
    tensor = tensors.pop(name)
    values = [0.0, 1e-30, 1e20, 3e38, math.nan, -math.inf] if tensor.is_floating_point() else [0, 255]
    others = [
        {},
        {f"{name}x": tensor},
        {name: tensor.double()},
        {name: tensor.to(th.int64)},
        *({name: th.full_like(tensor, value)} for value in values),
        {name: tensor + 1},
        {name: tensor[None]},
        {name: th.cat([tensor.flatten(), tensor.flatten()])},
        {name: tensor.flatten()[:0]},
        {name: tensor, "extra": tensor.clone()},
    ]
    members[group] = save_safetensors({**tensors, **rng.choice(others)})
    return packed(members)


def with_other_weights(content: bytes, rng: random.Random) -> bytes:
    """Give all floats of a group one value, or multiply them."""
    members = members_of(content)
    groups = [f"{name}.safetensors" for name in ("policy", "network", "text_table")]
    group = rng.choice([name for name in groups if name in members])
    tensors = load_safetensors(members[group])
    value, is_factor = rng.choice([0.0, 1.0, -1.0, 1e-30, 1e10, 1e20, 3e38]), rng.random() < 0.5
    for name, tensor in tensors.items():
        if tensor.is_floating_point():
            tensors[name] = (tensor if is_factor else th.ones_like(tensor)) * value
    members[group] = save_safetensors(tensors)
    return packed(members)


def with_other_members(content: bytes, rng: random.Random) -> bytes:
    """Take a member away, add one, swap two, or compress them."""
    members = members_of(content)
    one, other = rng.sample(sorted(members), 2)
    kind = rng.randrange(5)
    if kind == 0:
        del members[one]
    elif kind == 1:
        members[rng.choice(["../evil", "policy.pth", "more.safetensors", "x" * 10_000])] = b"evil"
    elif kind == 2:
        members[one], members[other] = members[other], members[one]
    elif kind == 3:
        members |= {f"{number}.safetensors": b"" for number in range(rng.choice([10, 1_000, 40_000]))}
    return packed(members, zipfile.ZIP_DEFLATED if kind == 4 else zipfile.ZIP_STORED)


CHANGES: tuple[Change, ...] = (
    *(damaged, with_other_json, with_other_json, with_other_json),
    *(with_other_tensors, with_other_weights, with_other_members),
)
"""Ways to change a file, each as often as it stands here."""


class Widened(BaseFeaturesExtractor):
    """Features extractor of a user.

    :param space: space of observations.
    :param width: size of the features.
    """

    def __init__(self, space: spaces.Space[Any], width: int = 4) -> None:
        super().__init__(space, 4)
        self.layer = th.nn.Linear(int(np.prod(space.shape or ())), 4)

    def forward(self, observations: th.Tensor) -> th.Tensor:
        """Compute the features, (B, 4)."""
        return self.layer(observations)


@dataclass(frozen=True)
class File:
    """A sound file, and how it is loaded and used.

    :param kind: name of what it holds.
    :param content: its bytes.
    :param load: loads a path.
    :param act: acts as what was loaded on zeros and on random observations; gives arrays.
    """

    kind: str
    content: bytes
    load: Callable[[Path], Any]
    act: Callable[[Any], list[np.ndarray]]


def sound_files() -> list[File]:
    """Make a file of each kind."""
    custom: Any = {"features_extractor_class": Widened}
    few_features = {"features_extractor_kwargs": {"features_dim": 4}}
    own = _model(policy_kwargs=custom | {"features_extractor_kwargs": {"width": 4}})
    plain = _model()
    models = {
        "model": (plain, {}),
        "model with an extractor of its user": (own, custom),
        "model of Dict observations": (_model("MultiInputPolicy", as_dicts), {}),
        "model of images": (_model("CnnPolicy", as_images, policy_kwargs=few_features), {}),
        "model with the expectile critic": (_model(critic_objective="expectile"), {}),
    }
    files = [
        File(kind, _saved(model), partial(LLMDPD.load, device="cpu", custom_objects=given), _act_as_model)
        for kind, (model, given) in models.items()
    ]
    networks: tuple[Any, ...] = (type(plain.policy), PromptedActor, PromptedCritic)
    parts = (plain.policy, plain.actor, plain.critic)
    acts = (_act_as_policy, _act_as_actor, _value)
    for kind, network, part, act in zip(("policy", "actor", "critic"), networks, parts, acts, strict=True):
        files.append(File(kind, _saved(part), partial(network.load, device="cpu"), act))
    load = partial(PromptedActor.load, device="cpu", custom=custom)
    return [*files, File("actor with an extractor of its user", _saved(own.actor), load, _act_as_actor)]


def as_vectors(rows: np.ndarray) -> Any:
    """Give observations as they are, (n, 5)."""
    return rows


def as_dicts(rows: np.ndarray) -> Any:
    """Give observations in two parts."""
    return {"a": rows[:, :2], "b": rows[:, 2:]}


def as_images(rows: np.ndarray) -> Any:
    """Give observations as small images, (n, 3, 36, 36)."""
    return np.broadcast_to(np.abs(rows[:, :3, None, None] * 50).astype(np.uint8), (len(rows), 3, 36, 36))


def _model(policy: str = "MlpPolicy", observed: Any = as_vectors, **changes: Any) -> LLMDPD:
    rng = np.random.default_rng(0)
    kwargs = {**SMALL, **changes.pop("policy_kwargs", {})}
    episodes = [
        Episode(
            observed(rng.standard_normal((9, 5)).astype(np.float32)),
            rng.uniform(-1, 1, (8, 2)),
            rng.standard_normal(8),
            task=text,
            task_texts=(text,),
        )
        for text in ("go left", "go right")
        for _ in range(2)
    ]
    model = LLMDPD(
        policy,
        dataset=episodes,
        policy_kwargs=kwargs,
        text_encoder="hashing:8",
        batch_size=8,
        prompts_per_batch=2,
        seed=0,
        device="cpu",
        **changes,
    )
    return model.learn(2)


def _saved(part: Any) -> bytes:
    file = io.BytesIO()
    part.save(file)
    return file.getvalue()


def _observations(space: spaces.Space[Any]) -> Any:
    """Give one of zeros, and a random one."""
    space.seed(0)
    sample = space.sample()
    if isinstance(sample, dict):
        return {key: np.stack([np.zeros_like(part), part]) for key, part in sample.items()}
    return np.stack([np.zeros_like(sample), sample])


def _act_as_model(model: LLMDPD) -> list[np.ndarray]:
    observations = _observations(model.observation_space)
    return [model.predict(observations, deterministic=how, prompt=Prompt())[0] for how in (True, False)]


def _act_as_policy(policy: Any) -> list[np.ndarray]:
    prompt, generators = policy.actor_target.null_prompt(), (None, th.Generator())
    observations = _observations(policy.observation_space)
    return [policy.predict_prompted(observations, prompt, noise) for noise in generators]


def _act_as_actor(actor: Any) -> list[np.ndarray]:
    observations, _ = actor.obs_to_tensor(_observations(actor.observation_space))
    noise = th.zeros(actor.process.n_steps, 1, 2, actor.denoiser.action_dim)
    with th.no_grad():
        actions = actor(observations, actor.null_prompt(), noise)
    return [actor.unscale_action(actions[0].numpy().reshape(-1, *actor.action_space.shape))]


def _value(critic: Any) -> list[np.ndarray]:
    with th.no_grad():
        return [values.numpy() for values in critic.outputs_on_zeros().values()]


WATCHED = (
    *("open", "import", "exec", "compile", "socket.", "subprocess.", "os.", "shutil.", "ctypes."),
    *("pickle.", "urllib.", "http.", "ftplib.", "tempfile.", "glob.", "mmap.", "pty.", "sqlite3."),
)
"""Beginnings of the names of audit events that say what a call touches; others are inside of Python."""


class Watch:
    """Notes the audit events of this process while it is open; a hook cannot be taken away again.

    :param own: file whose opening is expected, beside that of the sources of modules that are loaded.
    """

    def __init__(self, own: Path) -> None:
        # PyTorch tells a seed where it was called from, and reads sources again that were edited meanwhile.
        sources = {getattr(module, "__file__", None) for module in list(sys.modules.values())}
        self.expected = {str(own), *filter(None, sources)}
        self.is_open = False
        self.seen: Counter[str] = Counter()
        sys.addaudithook(self._note)

    def _note(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.is_open or not event.startswith(WATCHED):
            return
        if event == "open" and str(arguments[0]) in self.expected:
            return
        self.seen[f"{event} {arguments[0] if arguments else ''}"[:200]] += 1

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Note the events of a block."""
        self.is_open = True
        try:
            yield
        finally:
            self.is_open = False


@dataclass
class Tally:
    """Outcomes of the changed files of one kind."""

    refused: int = 0
    acted: int = 0
    worst_seconds: float = 0.0
    worst_bytes: int = 0
    wrong: list[str] = field(default_factory=list)


class _Hangs(BaseException):
    """Not an Exception, so that no loader takes it for one of a damaged file."""


@contextmanager
def limited_time(seconds: int) -> Iterator[None]:
    """Turn a hang into an error."""

    def late(*_: Any) -> None:
        raise _Hangs(f"took longer than {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def peak_bytes(anew: bool = False) -> int:
    """Read the most memory that this process has held, on Linux since the last call with ``anew``."""
    with suppress(OSError):
        if anew:
            Path("/proc/self/clear_refs").write_text("5")
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def try_file(file: File, path: Path, watch: Watch, tally: Tally) -> str:
    """Load the changed file at a path, act if that works, and note what it took.

    :return: words for what went wrong; empty when nothing did.
    """
    model = problem = None
    before, began = peak_bytes(anew=True), time.process_time()
    try:
        with limited_time(HANGS_AFTER), watch.opened():
            model = file.load(path)
    except ValueError as error:
        problem = str(error)
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        return f"raw {type(error).__name__}: {error}\n{traceback.format_exc(limit=-4)}"
    seconds, n_bytes = time.process_time() - began, peak_bytes() - before
    tally.worst_seconds = max(tally.worst_seconds, seconds)
    tally.worst_bytes = max(tally.worst_bytes, n_bytes)
    if seconds > MOST_SECONDS or n_bytes > MOST_BYTES:
        return f"took {seconds:.2f} s and {n_bytes / 2**20:.0f} MB"
    if problem is not None:
        tally.refused += 1
        is_sentence = problem.startswith(str(path)) and problem.isprintable() and len(problem) < 1_500
        return "" if is_sentence else f"is no sentence: {problem[:1_500]!r}"
    try:
        with limited_time(HANGS_AFTER):
            numbers = file.act(model)
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        return f"acts with {type(error).__name__}: {error}\n{traceback.format_exc(limit=-4)}"
    tally.acted += 1
    return "" if all(np.isfinite(each).all() for each in numbers) else "acts with NaN"


def fuzz(n_mutations: int, seed: int, only: int | None = None) -> tuple[dict[str, Tally], Counter[str]]:
    """Change files, and load them.

    :param n_mutations: number of changed files, over all kinds.
    :param seed: seed of the changes.
    :param only: number of the one change to make again; None for all.
    :return: tally of each kind, and the audit events that are not the files' own.
    """
    files = sound_files()
    tallies = {file.kind: Tally() for file in files}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "changed.zip")
        for file in files:  # what torch and others import at first use is not the changed files' doing
            path.write_bytes(file.content)
            file.act(file.load(path))
        watch = Watch(path)
        for number in range(n_mutations) if only is None else [only]:
            rng = random.Random(f"{seed} {number}")
            file, change = files[number % len(files)], CHANGES[number // len(files) % len(CHANGES)]
            path.write_bytes(change(file.content, rng))
            n_before = watch.seen.total()
            tally = tallies[file.kind]
            problem = try_file(file, path, watch, tally)
            if problem or watch.seen.total() > n_before:
                tally.wrong.append(f"{number} ({change.__name__}) {problem or 'touches more than its file'}")
    return tallies, watch.seen


def summary(tallies: dict[str, Tally], events: Counter[str]) -> str:
    """Tell what became of the files, in a table."""
    heads = f"{'file':37}{'changed':>8}{'refused':>9}{'acted':>7}{'wrong':>7}{'worst s':>9}{'worst MB':>10}"
    total = Tally()
    rows = []
    for kind, tally in [*tallies.items(), ("all", total)]:
        n_files = tally.refused + tally.acted
        sizes = f"{tally.worst_seconds:9.2f}{tally.worst_bytes / 2**20:10.0f}"
        rows.append(f"{kind:37}{n_files:8,}{tally.refused:9,}{tally.acted:7,}{len(tally.wrong):7,}{sizes}")
        total.refused += tally.refused
        total.acted += tally.acted
        total.wrong += tally.wrong
        total.worst_seconds = max(total.worst_seconds, tally.worst_seconds)
        total.worst_bytes = max(total.worst_bytes, tally.worst_bytes)
    other = f"audit events but the opening of the file: {events.total()}"
    return "\n".join([heads, *rows, "", other])


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description="Change model files at random and load them.")
    parser.add_argument("--mutations", type=int, default=3_000, help="number of changed files")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", action="store_true", help=f"write the summary into {PAGE.name}, too")
    parser.add_argument("--only", type=int, help="number of the one change to make again")
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # of layers that a changed file describes
    tallies, events = fuzz(options.mutations, options.seed, options.only)
    if options.write:
        page, block = PAGE.read_text(), f"\\g<1>```text\n{summary(tallies, events)}\n```\n\\g<2>"
        with whole_file(PAGE) as temporary:
            temporary.write_text(re.sub(r"(<!-- fuzz -->\n).*?(<!-- end -->)", block, page, flags=re.DOTALL))
    wrong = [f"{kind}: {each}" for kind, tally in tallies.items() for each in tally.wrong]
    others = [f"{n} x {event}" for event, n in events.items()]
    print(summary(tallies, events), *wrong, *others, sep="\n")  # noqa: T201
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
