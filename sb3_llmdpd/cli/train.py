"""`sb3-llmdpd train`: learns a model from Minari data sets."""

import inspect
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any

import typer
from stable_baselines3.common.utils import get_device

from sb3_llmdpd.benchmarks.runs import train_into
from sb3_llmdpd.cli.options import names, whole_numbers
from sb3_llmdpd.data.episodes import OfflineDataset
from sb3_llmdpd.data.metaworld.tasks import TASKS
from sb3_llmdpd.data.minari import load_minari, local_ids
from sb3_llmdpd.llmdpd import LLMDPD
from sb3_llmdpd.losses import POLICY_OBJECTIVES
from sb3_llmdpd.networks.features import FEATURES_EXTRACTORS
from sb3_llmdpd.policies import CONDITIONINGS, LLMDPDPolicy
from sb3_llmdpd.schedules import CosineSchedule

# The defaults of the algorithm stand in its signature and nowhere else.
_MODEL: dict[str, Any] = {name: parameter.default for name, parameter in inspect.signature(LLMDPD).parameters.items()}
_POLICY: dict[str, Any] = {name: parameter.default for name, parameter in inspect.signature(LLMDPDPolicy).parameters.items()}


def train(
    dataset: Annotated[
        list[str], typer.Option(help="Minari id, or a pattern as 'metaworld/*' of local ids. May be given several times.")
    ],
    out: Annotated[Path, typer.Option(help="Folder of model.zip, progress.csv and curves.png.")] = Path("runs/train"),
    root: Annotated[
        Path | None, typer.Option(help="Folder of the data sets; by default $MINARI_DATASETS_PATH or ~/.minari/datasets.")
    ] = None,
    unseen: Annotated[str | None, typer.Option(help="Tasks between commas whose episodes are left out.")] = None,
    steps: Annotated[int, typer.Option(help="Gradient steps.")] = 10_000,
    batch_size: Annotated[int, typer.Option(help="Transitions in a step.")] = _MODEL["batch_size"],
    q_batch_size: Annotated[int | None, typer.Option(help="How many of them the critic sees; by default all.")] = _MODEL[
        "q_batch_size"
    ],
    prompts_per_batch: Annotated[int, typer.Option(help="Prompts in a step.")] = _MODEL["prompts_per_batch"],
    learning_rate: Annotated[float, typer.Option(help="Of actor and encoders.")] = _MODEL["learning_rate"],
    cosine: Annotated[bool, typer.Option("--cosine", help="Let the learning rate fall along half a cosine.")] = False,
    critic_learning_rate: Annotated[float | None, typer.Option(help="Of the critic; by default the actor's.")] = _MODEL[
        "critic_learning_rate"
    ],
    gamma: Annotated[float, typer.Option(help="Discount.")] = _MODEL["gamma"],
    eta: Annotated[float, typer.Option(help="Weight of the Q term; 0 is behaviour cloning.")] = _MODEL["eta"],
    policy_objective: Annotated[str, typer.Option(help=f"{' or '.join(POLICY_OBJECTIVES)}.")] = _MODEL["policy_objective"],
    ema_decay: Annotated[float, typer.Option(help="Of the averaged actor.")] = _MODEL["ema_decay"],
    text_dropout: Annotated[float, typer.Option(help="Share of prompts without their sentence.")] = _MODEL["text_dropout"],
    trajectory_dropout: Annotated[float, typer.Option(help="Share of prompts without their example.")] = _MODEL[
        "trajectory_dropout"
    ],
    prompt_noise: Annotated[float, typer.Option(help="Noise on the prompt vectors in training.")] = _MODEL["prompt_noise"],
    text_encoder: Annotated[str, typer.Option(help="Spec of the language model; none for no text.")] = _MODEL["text_encoder"],
    same_goal: Annotated[bool, typer.Option("--same-goal", help="Examples share the goal.")] = _MODEL["same_goal"],
    conditioning: Annotated[str, typer.Option(help=f"{' or '.join(CONDITIONINGS)}.")] = _POLICY["conditioning"],
    features_extractor: Annotated[
        str | None, typer.Option(help=f"{', '.join(FEATURES_EXTRACTORS)}; by default the policy's.")
    ] = None,
    net_arch: Annotated[
        str | None, typer.Option(help="Widths of the hidden layers between commas; by default the policy's.")
    ] = None,
    layer_norm: Annotated[bool, typer.Option("--layer-norm", help="Normalise the hidden layers.")] = _POLICY["layer_norm"],
    prompt_window: Annotated[int, typer.Option(help="Steps of an example.")] = _POLICY["prompt_window"],
    policy: Annotated[str, typer.Option(help=f"{', '.join(LLMDPD.policy_aliases)}.")] = "MlpPolicy",
    seed: Annotated[int, typer.Option(help="Of networks, batches and noise.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda ...")] = _MODEL["device"],
    log_interval: Annotated[int, typer.Option(help="Gradient steps between two points of the learning curve.")] = 100,
) -> None:
    """Train one model on all the data sets, and write it with its learning curve."""
    if policy not in LLMDPD.policy_aliases:
        raise ValueError(f"--policy must be one of {', '.join(LLMDPD.policy_aliases)}, got {policy!r}")
    _check_device(device)
    data = _without(load_minari(_ids(dataset, root), root=root), [] if unseen is None else names(unseen, "--unseen"))
    typer.echo(f"{len(data.episodes)} episodes of {len(data.tasks)} tasks, {data.n_steps:,} transitions")
    model = LLMDPD(
        policy,
        dataset=data,
        learning_rate=CosineSchedule(learning_rate) if cosine else learning_rate,
        critic_learning_rate=critic_learning_rate,
        batch_size=batch_size,
        q_batch_size=q_batch_size,
        prompts_per_batch=prompts_per_batch,
        gamma=gamma,
        eta=eta,
        policy_objective=policy_objective,
        ema_decay=ema_decay,
        text_dropout=text_dropout,
        trajectory_dropout=trajectory_dropout,
        prompt_noise=prompt_noise,
        text_encoder=None if text_encoder == "none" else text_encoder,
        same_goal=same_goal,
        policy_kwargs={
            "conditioning": conditioning,
            "features_extractor_class": features_extractor,
            "net_arch": None if net_arch is None else whole_numbers(net_arch, "--net-arch"),
            "layer_norm": layer_norm,
            "prompt_window": prompt_window,
        },
        seed=seed,
        device=device,
    )
    path = train_into(out, model, steps, log_interval)
    typer.echo(f"The model is {path}. Next: sb3-llmdpd evaluate --model {path}")


def _ids(patterns: list[str], root: Path | None) -> list[str]:
    """Ids as they are, patterns as the local ids that fit them."""
    ids: list[str] = []
    for pattern in patterns:
        fitting = [pattern]
        if any(sign in pattern for sign in "*?["):
            fitting = [name for name in local_ids(root) if fnmatchcase(name, pattern)]
            if not fitting:
                raise ValueError(
                    f"--dataset {pattern!r} fits none of the local data sets: {', '.join(local_ids(root)) or 'none'}"
                )
        ids += fitting
    return list(dict.fromkeys(ids))


def _check_device(device: str) -> None:
    try:
        get_device(device)
    except RuntimeError as error:  # torch's word for a name that it does not know
        raise ValueError(f"--device: {error}") from error


def _without(data: OfflineDataset, unseen: list[str]) -> OfflineDataset:
    unknown = [task for task in unseen if task not in data.tasks and task not in TASKS]
    if unknown:
        raise ValueError(f"--unseen names {', '.join(unknown)}, and the tasks of the data are {', '.join(data.tasks)}")
    kept = tuple(episode for episode in data.episodes if episode.task not in unseen)
    if not kept:
        raise ValueError("--unseen leaves no episode to train on")
    return OfflineDataset(kept, data.observation_space, data.action_space)
