"""Model files that are made to harm: changes of a sound one, and bombs that ask for time or memory."""

import io
import json
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch as th
from factories import tiny_model
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors

from sb3_llmdpd import LLMDPD, LLMDPDPolicy
from sb3_llmdpd.llmdpd.actor import PromptedActor
from tools.fuzz_checkpoints import members_of, packed, peak_bytes, with_data


def changed(content: bytes, change: Callable[[dict[str, Any]], Any]) -> bytes:
    """Write the same file with other data.

    :param change: changes them in place
    """
    data = json.loads(members_of(content)["data"])
    change(data)
    return with_data(content, json.dumps(data))


def with_tensors(content: bytes, group: str, values: Mapping[str, float | th.Tensor]) -> bytes:
    """Write the same file with other tensors.

    :param values: a tensor, or the value of all entries of the one that is there, by name
    """
    members = members_of(content)
    tensors = load_safetensors(members[f"{group}.safetensors"])
    for name, value in values.items():
        tensors[name] = value if isinstance(value, th.Tensor) else th.full_like(tensors[name], value)
    members[f"{group}.safetensors"] = save_safetensors({n: t.contiguous() for n, t in tensors.items()})
    return packed(members)


class Bomb(NamedTuple):
    """A file that asks for much."""

    make: Callable[[bytes], bytes]
    """Makes it of the sound file of its kind."""
    message: str
    """Pattern of the refusal."""
    kind: str = "model"


def with_kwargs(**kwargs: Any) -> Callable[[bytes], bytes]:
    """Change arguments of the networks."""

    def change(data: dict[str, Any]) -> None:
        data["arguments"].get("policy_kwargs", data["arguments"]).update(kwargs)

    return lambda content: changed(content, change)


def with_json(**entries: Any) -> Callable[[bytes], bytes]:
    """Change entries of the data."""
    return lambda content: changed(content, lambda data: data.update(entries))


def with_members(n: int) -> Callable[[bytes], bytes]:
    """Add empty members."""
    return lambda content: packed(members_of(content) | {f"{i}.safetensors": b"" for i in range(n)})


def with_empty_tensors(content: bytes) -> bytes:
    """Name ten thousand tensors that have no bytes."""
    return with_tensors(content, "policy", {f"x{number}": th.zeros(0) for number in range(10_000)})


def box(dtype: str = "float32", shape: tuple[int, ...] = (2**24,)) -> dict[str, Any]:
    """Describe a space."""
    return {"type": "Box", "dtype": dtype, "shape": list(shape), "low": 0, "high": 255}


BOXES = {"type": "Dict", "spaces": {str(number): box() for number in range(400)}}
IMAGES = {"type": "Dict", "spaces": {str(number): box("uint8", (3, 36, 36)) for number in range(250)}}
LONG_WINDOW = dict(prompt_window=2**24, conditioning="concat")
DEEP = dict(n_encoder_layers=32, n_text_layers=32, net_arch=[16] * 32)
LONG = [1e9] * 400_000

BOMBS = {
    "a Dict of 400 large boxes": Bomb(
        with_json(observation_space=BOXES), "26,843,545,600 bytes in 400 parts"
    ),
    "a Dict of 250 images": Bomb(
        with_json(observation_space=IMAGES, policy="MultiInputPolicy"), "larger than the .* of its weights"
    ),
    "a large image": Bomb(
        with_json(observation_space=box("uint8", (3, 1_180, 1_180)), policy="CnnPolicy"),
        "larger than the .* of its weights",
    ),
    "a dtype of two billion bytes": Bomb(
        with_json(observation_space=box("S2000000000", (5,))), "in 'observation_space': .*dtype 'S2000000000'"
    ),
    "wide layers": Bomb(with_kwargs(net_arch=[20_000] * 2), "is a weight of the network alone"),
    "one wide layer": Bomb(with_kwargs(net_arch=[2**24]), "of the network is .*16777216"),
    "wide layers behind an extra key": Bomb(
        with_kwargs(net_arch=[20_000] * 2, optimizer_kwargs={"lr": {":float:": "inf", ":custom:": "x"}}),
        "has the key ':custom:'",
    ),
    "40,000 members": Bomb(with_members(40_000), "its directory has 2,509,485 bytes"),
    "900 members": Bomb(with_members(900), "which is no part of a model file"),
    "1,000 layers": Bomb(with_kwargs(n_encoder_layers=1_000), r"`n_encoder_layers` must be in \[1, 32\]"),
    "as many layers as there may be": Bomb(with_kwargs(**DEEP), "is a weight of the network alone"),
    "a long window": Bomb(with_kwargs(**LONG_WINDOW), "is a weight of the network alone"),
    "long vectors of sentences": Bomb(with_kwargs(text_dim=2**24), "of the network is .*16777216"),
    "10,000 empty tensors": Bomb(with_empty_tensors, "'x0' is a weight of the file alone"),
    "a long list": Bomb(with_json(more=LONG), "the entry 'more', which this version does not know"),
    "many objects": Bomb(with_json(more=[{}] * 100_000), "65,536 objects, got"),
    "many callbacks": Bomb(with_json(callbacks=[{}] * 60_000), "more than 1,000 'callbacks'"),
    "a long string": Bomb(with_json(more="\U0001f600" + "x" * 2**24), "the entry 'more'"),
    "many candidates": Bomb(
        lambda content: changed(content, lambda data: data["arguments"].update(n_candidates=2**24)),
        r"`n_candidates` must be in \[1, 10000\]",
    ),
    "an actor of 2^20 steps": Bomb(
        with_kwargs(n_diffusion_steps=2**20), r"`n_diffusion_steps` must be in \[1, 1000\]", "actor"
    ),
    "an actor of a wide layer": Bomb(with_kwargs(net_arch=[2**24]), "of the network is .*16777216", "actor"),
    "a policy of 400 large boxes": Bomb(with_json(observation_space=BOXES), "in 400 parts", "policy"),
}


def told_of_bombs() -> dict[str, tuple[float, float, str]]:
    """Load each bomb: seconds of the processor, MB beyond the process, and the error."""
    model = tiny_model()
    loaders = {"model": LLMDPD.load, "policy": LLMDPDPolicy.load, "actor": PromptedActor.load}
    sound = {}
    for kind, load in loaders.items():
        file = io.BytesIO()
        (model if kind == "model" else getattr(model, kind)).save(file)
        sound[kind] = file.getvalue()
        load(io.BytesIO(sound[kind]), device="cpu")  # what is imported at first use is no bomb's doing
    told = {}
    for name, bomb in BOMBS.items():
        content = bomb.make(sound[bomb.kind])
        tries = [_spent(loaders[bomb.kind], content) for _ in range(2)]  # of a busy machine, the better one
        told[name] = min(tries)
    return told


def _spent(load: Callable[..., Any], content: bytes) -> tuple[float, float, str]:
    before, began = peak_bytes(anew=True), time.process_time()
    try:
        load(io.BytesIO(content), device="cpu")
        error = "loaded"
    except ValueError as refusal:
        error = str(refusal)
    return time.process_time() - began, (peak_bytes() - before) / 2**20, error
