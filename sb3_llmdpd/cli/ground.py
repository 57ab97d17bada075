"""The environments that a model is played in, and its examples there: options of `evaluate` and `film`."""

import difflib
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from typer import Option

from sb3_llmdpd.cli.sources import TASK_TEXTS, how_to_read, source_names
from sb3_llmdpd.data.checks import check_texts, listed
from sb3_llmdpd.data.episodes import Episode, by_task
from sb3_llmdpd.data.loading import open_sources
from sb3_llmdpd.evaluation.gymnasium_suite import GymnasiumSuite
from sb3_llmdpd.evaluation.suite import EnvFacts, Suite, check_playable
from sb3_llmdpd.llmdpd.llmdpd import LLMDPD

Examples = Mapping[str, Sequence[Episode]]

Env = Annotated[
    str | None,
    Option(
        help="Gymnasium environment to play instead of Meta-World, such as my_package:MyEnv-v0; a module of"
        " the current folder will do. {task} in it stands for the name of the task. Where neither this nor"
        ' --env-kwargs holds {task}, the environment gets reset(options={"task": NAME}).'
    ),
]
EnvKwargs = Annotated[
    str | None,
    Option(help="Arguments of --env as a JSON object; {task} in a string stands for the name of the task."),
]
ExamplesOption = Annotated[
    list[str] | None,
    Option(
        help="Episodes to show as examples, by their task: a source as train --dataset takes it; may be"
        " given several times. Failed ones are left out. Of Meta-World also their number a task, recorded if"
        " need be; by default 5, and with --hide-goal one an episode."
    ),
]
MaxSteps = Annotated[
    int | None,
    Option(help="Steps after which an episode ends; by default the environment's time limit.", min=1),
]


@dataclass(frozen=True)
class Ground:
    """Environments that a model is played in, and examples that it can be shown there.

    :param suite: environments of the tasks, and what is known of them.
    :param tasks: tasks that are played.
    :param examples: episodes by task; None where the scripted expert records them.
    :param texts: sentences by task that were given, in place of the suite's.
    :param facts: facts about the environments of the tasks.
    """

    suite: Suite
    tasks: Sequence[str]
    examples: Examples | None = None
    texts: Mapping[str, str] = field(default_factory=dict)
    facts: Mapping[str, EnvFacts] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "facts", {task: self.suite.facts(task) for task in self.tasks})

    def checked(self, model: LLMDPD) -> "Ground":
        """Refuse a model that cannot act here by a ValueError, before anything is recorded or played."""
        check_playable(self.facts, model, self.suite.where_to_look)
        return self

    def possible(self, model: LLMDPD) -> dict[str, bool]:
        """Tell what there is to prompt a model with, and whether all environments have an expert."""
        return {
            "texts": model.text_encoder is not None and any(self.told().values()),
            "examples": self.examples is None or any(self.examples.get(task) for task in self.tasks),
            "expert": all(of_task.has_expert for of_task in self.facts.values()),
        }

    def told(self) -> dict[str, str | None]:
        """List the sentences of the tasks; None for a task without one."""
        return {task: self.texts.get(task) or self._text(task) for task in self.tasks}

    def _text(self, task: str) -> str | None:
        try:
            return self.suite.text(task)
        except ValueError:
            return None


@dataclass(frozen=True)
class Shown:
    """Examples and sentences that the options name.

    :param number: examples a task that are to be recorded; None where no number was given.
    :param examples: episodes that were read, by task; None where none were.
    :param texts: sentences by task.
    """

    number: int | None
    examples: Examples | None
    texts: Mapping[str, Sequence[str]]


def read_shown(given: Sequence[str] | None, root: Path | None, reading: Mapping[str, Any]) -> Shown:
    """Read examples and sentences.

    :param given: values of ``--examples``.
    :param root: folder of the Minari data sets.
    :param reading: values of the options that say how data are read.
    :raises ValueError: when no example is left, and as the readers of sources.
    """
    how = how_to_read(reading)
    said = how[TASK_TEXTS] or {}
    texts = {task: check_texts(phrasings, f"--task-texts, {task}") for task, phrasings in said.items()}
    if not given:
        return Shown(None, None, texts)
    if len(given) == 1 and given[0].isdecimal():
        return Shown(int(given[0]), None, texts)
    sources = open_sources(source_names(given, root), root=root, **how)
    examples = by_task(one for source in sources for one in source.episodes() if one.success is not False)
    if not examples:
        raise ValueError(f"--examples: {listed(given)} hold no episode that did not fail")
    own = {task: episodes[0].task_texts for task, episodes in examples.items() if episodes[0].task_texts}
    return Shown(None, examples, {**own, **texts})


def own_environment(
    env: str,
    env_kwargs: str | None,
    max_steps: int | None,
    tasks: Sequence[str] | None,
    shown: Shown,
    model: LLMDPD,
) -> Ground:
    """Prepare the user's environment.

    :param env: its id.
    :param env_kwargs: its arguments as JSON.
    :param max_steps: its time limit, in place of the registered one.
    :param tasks: tasks to play; None for those of the examples, or else of the sentences.
    :param shown: examples and sentences.
    :param model: model whose known sentences are told where no other is given.
    :raises ValueError: when a task is missing, or the environment cannot be made.
    """
    if shown.number is not None:
        raise ValueError(
            f"--examples {shown.number}: only Meta-World's examples can be recorded; beside --env give a"
            " source of episodes, as train --dataset takes it"
        )
    if os.getcwd() not in sys.path:  # where `python -m` looks, too
        sys.path.append(os.getcwd())
    arguments, only = _json_object(env_kwargs), model.prompter.only_task
    chosen = tasks or list(shown.examples or shown.texts) or ([env] if only else [])
    if not chosen:
        raise ValueError("--env needs names of tasks: give --tasks, --task-texts, or --examples")
    known = model.known_task_texts
    own = dict.fromkeys(chosen, () if only is None or only[0].text is None else (only[0].text,))
    own |= {task: (task,) for task in chosen if task in known}
    texts = {**own, **shown.texts}
    suite = GymnasiumSuite(
        env,
        arguments,
        texts,
        {task: [text for text in said if text not in known] for task, said in texts.items()},
        max_steps,
    )
    return Ground(suite, chosen, shown.examples or {})


def refuse_beside_env(env: str | None, env_kwargs: str | None, **given: object) -> None:
    """Refuse options that do not go together.

    :param env: value of ``--env``.
    :param env_kwargs: value of ``--env-kwargs``.
    :param given: values of options that are Meta-World's alone.
    :raises ValueError: on arguments without an environment, and on Meta-World's options beside one.
    """
    if env is None and env_kwargs is not None:
        raise ValueError("--env-kwargs needs --env, the environment whose arguments they are")
    if env is not None and (others := [name for name, value in given.items() if value]):
        options = listed(f"--{name.replace('_', '-')}" for name in others)
        raise ValueError(f"{options}: of Meta-World's scenes alone; leave it out beside --env")


def check_known(names: Sequence[str], known: Sequence[str], option: str) -> None:
    """Refuse names of tasks that are not there by a ValueError, which says the nearest."""
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ValueError(f"{option} names {name!r}: {hint}The tasks are {listed(known)}")


def _json_object(text: str | None) -> dict[str, Any]:
    accepted = '--env-kwargs takes a JSON object, as in \'{"size": 3, "task": "{task}"}\''
    if text is None:
        return {}
    try:
        found = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{accepted}; got {text!r} ({error})") from error
    if not isinstance(found, dict):
        raise ValueError(f"{accepted}; got {text!r}")
    return found
