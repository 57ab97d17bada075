"""Cells, rollouts in lock step, and the evaluation of a model under prompts and controls."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from factories import make_episodes, tiny_model
from gymnasium import spaces

from sb3_llmdpd import LLMDPD, Episode
from sb3_llmdpd.data.metaworld import TASKS as TASK_INFOS
from sb3_llmdpd.data.metaworld.record import Recipe
from sb3_llmdpd.evaluation.conditions import CONDITIONS, Cell, Condition, make_cells, split_number
from sb3_llmdpd.evaluation.gymnasium_suite import GymnasiumSuite
from sb3_llmdpd.evaluation.players import CopyPlayer, RandomPlayer, rows_of_block
from sb3_llmdpd.evaluation.rollouts import EARLY_STEPS, run_episodes
from sb3_llmdpd.evaluation.tasks import evaluate_tasks, goals_of, prompts_of
from sb3_llmdpd.prompts.prompt import Prompt

TASKS = ["task-0", "task-1", "task-2"]
TEXTS = {task: f"do {task.replace('-', ' number ')}" for task in TASKS}

# Ends of messages
NEEDS_ANOTHER = "takes the prompt of another.* evaluate at least two"
HAS_NO_SUCCESS = "of 'task-0', and `examples` has no successful"
HAS_NO_EXAMPLE = r"shows an example of 'task-0'.*has tasks \['task-1'\]"


class WalkEnv(gym.Env[np.ndarray, np.ndarray]):
    """A walk along five axes, to each of which an action's first entry is added; success is above 2."""

    observation_space = spaces.Box(-np.inf, np.inf, (5,), np.float32)
    action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)

    def __init__(self, task: str = "", length: int = 6) -> None:
        self.task = task
        self.length = length

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.n_steps = 0
        self.position = self.np_random.uniform(-0.5, 0.5, 5).astype(np.float32)
        if options is not None:
            self.position[1] = float(options["goal_of"])
        return self.position.copy(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        assert self.n_steps < self.length, "stepped behind the end"
        self.n_steps += 1
        self.position += action[0]
        info = {"success": float(self.position[0] > 2)}
        return self.position.copy(), float(action[0]), False, self.n_steps == self.length, info

    def expert_action(self, observation: np.ndarray) -> np.ndarray:
        return np.array([1.0, 0.0], np.float32)


def examples_by_task() -> dict[str, list[Episode]]:
    return {task: [episode for episode in make_episodes() if episode.task == task] for task in TASKS}


@pytest.fixture(scope="module")
def model() -> LLMDPD:
    return tiny_model().learn(3)


def evaluate(model: Any, cells: list[Cell], **arguments: Any) -> Any:
    defaults: dict[str, Any] = {"examples": examples_by_task(), "texts": TEXTS, "make_env": WalkEnv}
    defaults |= {"n_episodes": 5, "n_envs": 3, "n_processes": 1, "progress_bar": False}
    return evaluate_tasks(model, cells, **defaults | arguments)


def test_the_wrong_prompt_is_never_the_tasks_own_and_each_serves_once() -> None:
    for seed in range(20):
        cells = make_cells(TASKS, ["wrong"], seed=seed)
        assert all(cell.condition.text_of == cell.condition.trajectory_of != cell.task for cell in cells)
        assert sorted(str(cell.condition.text_of) for cell in cells) == TASKS


def test_a_told_condition_keeps_its_sentence_in_all_scenes() -> None:
    cells, told = make_cells(["a", "b"], ["told:c"]), Condition("told:c", text_of="c")
    assert [(cell.task, cell.condition) for cell in cells] == [("a", told), ("b", told)]
    assert told.is_told
    assert not Condition("text", text_of="a").is_told


def test_wrong_text_keeps_the_example_and_wrong_trajectory_the_sentence() -> None:
    text, trajectory = make_cells(TASKS, ["wrong-text", "wrong-trajectory"])[:2]
    assert text.condition.text_of != text.task == text.condition.trajectory_of
    assert trajectory.condition.trajectory_of != trajectory.task == trajectory.condition.text_of
    assert text.condition.text_of == trajectory.condition.trajectory_of


def test_with_hidden_goals_the_wrong_trajectory_is_one_of_the_same_task_and_another_goal() -> None:
    (cell,) = make_cells(["push"], ["wrong-trajectory"], same_goal=True)
    assert (cell.condition.trajectory_of, cell.condition.other_goal, cell.same_goal) == ("push", True, True)


def test_a_task_whose_goal_is_a_part_of_its_object_has_no_example_of_another_goal() -> None:
    cells = make_cells(["push", "door-lock"], ["text", "wrong-trajectory"], same_goal=True)
    names = [(cell.task, cell.condition.name) for cell in cells]
    assert names == [("push", "text"), ("push", "wrong-trajectory"), ("door-lock", "text")]


def test_an_antonym_is_the_opposite_tasks_sentence_and_tasks_without_one_are_left_out() -> None:
    cells = make_cells(["drawer-open", "reach", "door-lock"], ["antonym"])
    told = [(cell.task, cell.condition.text_of, cell.condition.trajectory_of) for cell in cells]
    assert told == [("drawer-open", "drawer-close", None), ("door-lock", "door-unlock", None)]


def test_paraphrases_are_told_in_turns() -> None:
    (cell,) = make_cells(["drawer-open"], ["paraphrase"])
    one, other = TASK_INFOS["drawer-open"].paraphrases
    assert [prompt.text for prompt in prompts_of(cell.condition, {}, {}, 3)] == [one, other, one]


def test_paraphrases_of_a_style_are_told_of_tasks_that_have_one() -> None:
    cells = make_cells(["drawer-open", "push-to-far-left"], ["paraphrase:terse", "paraphrase:rearranged"])
    assert [(cell.task, cell.condition.name) for cell in cells] == [
        ("drawer-open", "paraphrase:terse"),
        ("push-to-far-left", "paraphrase:rearranged"),
    ]
    told = [prompt.text for prompt in prompts_of(cells[0].condition, {}, {}, 3)]
    one, other = TASK_INFOS["drawer-open"].wordings["terse"]
    assert told == [one, other, one]


def test_an_unknown_style_of_paraphrases_is_answered_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"unknown style of phrasings 'rude' .*: known are terse, polite"):
        make_cells(["drawer-open"], ["paraphrase:rude"])
    with pytest.raises(ValueError, match="these tasks have none"):
        make_cells(["a"], ["paraphrase:terse"], suite=GymnasiumSuite("CartPole-v1"))


def test_cells_know_which_tasks_were_held_out() -> None:
    assert [cell.seen for cell in make_cells(["a", "b"], ["none"], unseen=["b"])] == [True, False]
    assert [cell.seen for cell in make_cells(["a", "b"], ["none"])] == [None, None]


@pytest.mark.parametrize(
    ("tasks", "conditions", "message"),
    [
        ("a", "both", r"unknown condition 'both': use text\+trajectory, .* or told:<task>"),
        ("a", "told:", "unknown condition"),
        ("a", "wrong", "evaluate at least two"),
        ("a", "text wrong-trajectory", f"'wrong-trajectory' {NEEDS_ANOTHER}"),
        ("a a", "none", "each once"),
        ("", "none", "at least one task"),
    ],
)
def test_impossible_cells_are_refused(tasks: str, conditions: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_cells(tasks.split(), conditions.split())


def test_a_number_behind_a_condition_is_the_number_of_its_examples():
    one, five = make_cells(["task-0"], ["text+trajectory", "text+trajectory:5"])
    assert five.condition == replace(one.condition, name="text+trajectory:5", n_examples=5)
    assert one.condition.n_examples == 1


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("trajectory:5", ("trajectory", 5)),
        ("trajectory", ("trajectory", 1)),
        ("told:push", ("told:push", 1)),
        ("text+trajectory:12", ("text+trajectory", 12)),
    ],
)
def test_the_number_of_examples_is_read_off_the_name(name, split):
    assert split_number(name) == split


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("text:5", "the condition 'text' shows no 5 examples: leave the number out of 'text:5'"),
        ("none:2", "the condition 'none' shows no 2 examples"),
        ("expert:2", "the condition 'expert' shows no 2 examples"),
        ("told:task-1:3", "the condition 'told:task-1' shows no 3 examples"),
        ("trajectory:0", "the condition 'trajectory' shows no 0 examples"),
        ("trajectory:", "unknown condition 'trajectory:'"),
        ("trajectory:-1", "unknown condition 'trajectory:-1'"),
        ("trajectory:two", "unknown condition 'trajectory:two'"),
        ("many:2", "unknown condition 'many'"),
    ],
)
def test_numbers_of_examples_that_cannot_be_shown_are_refused(condition, message):
    with pytest.raises(ValueError, match=message):
        make_cells(["task-0"], [condition])


@pytest.mark.parametrize("condition", ["wrong:2", "wrong-text:2", "wrong-trajectory:2"])
def test_several_examples_of_another_task_need_another_task(condition):
    with pytest.raises(ValueError, match=f"{NEEDS_ANOTHER}, or leave it out"):
        make_cells(["task-0"], [condition])


def test_a_cell_may_say_how_many_episodes_it_wants(model: LLMDPD) -> None:
    cells = make_cells(TASKS[:2], ["text"])
    few, many = evaluate(model, [replace(cells[0], n_episodes=2), cells[1]])
    assert (few.n_episodes, many.n_episodes) == (2, 5)
    assert many == evaluate(model, cells[1:])[0]


def act_by_speed(speeds: list[float], asked: list[list[int]]) -> Any:
    def act(observations: np.ndarray, rows: list[int], rewards: np.ndarray) -> np.ndarray:
        asked.append(list(rows))
        assert observations.shape == (len(rows), 5)
        assert rewards.shape == (len(rows),)
        return np.array([[speeds[row], 0.0] for row in rows], np.float32)

    return act


def test_rows_that_are_done_are_neither_asked_nor_stepped() -> None:
    asked: list[list[int]] = []
    envs = [WalkEnv(length=2), WalkEnv(length=4)]
    rollouts = run_episodes(envs, act_by_speed([0.0, 0.0], asked), [1, 2], max_steps=10)
    assert asked == [[0, 1], [0, 1], [1], [1]]
    assert [rollout.length for rollout in rollouts] == [2, 4]


def test_a_rollout_knows_first_success_last_success_and_return() -> None:
    plan = iter([1.0, 1.0, 1.0, 1.0, -1.0, -1.0])
    (rollout,) = run_episodes([WalkEnv()], lambda *_: np.array([[next(plan), 0.0]]), [0], max_steps=6)
    start = WalkEnv().reset(seed=0)[0][0]
    first = next(step for step in range(6) if start + step + 1 > 2)
    assert (rollout.first_success, rollout.last_success) == (first, start + 2 > 2)
    assert (rollout.total_reward, rollout.seed) == (2.0, 0)


@pytest.mark.parametrize("length", [EARLY_STEPS - 1, EARLY_STEPS, EARLY_STEPS + 20])
def test_the_early_return_is_that_of_the_first_steps(length):
    rewards = np.random.default_rng(0).uniform(-1, 1, length).tolist()
    plan, env = iter(rewards), WalkEnv(length=length)
    (rollout,) = run_episodes([env], lambda *_: np.array([[next(plan), 0.0]]), [0], max_steps=length)
    assert rollout.total_reward == pytest.approx(sum(rewards))
    assert rollout.early_reward == pytest.approx(sum(rewards[:EARLY_STEPS]))


def test_a_cell_keeps_the_early_return_of_each_episode(model):
    (result,) = evaluate(model, make_cells(["task-0"], ["expert"]), make_env=partial(WalkEnv, length=120))
    assert result.early_returns == (float(EARLY_STEPS),) * 5


def test_whoever_acts_is_told_the_rewards_of_the_last_steps_of_the_rows_that_go_on() -> None:
    told: list[list[float]] = []

    def act(observations: np.ndarray, rows: Sequence[int], rewards: np.ndarray) -> np.ndarray:
        told.append(rewards.tolist())
        return np.array([[(row + 1) / 4, 0.0] for row in rows])

    run_episodes([WalkEnv(length=2), WalkEnv(length=3)], act, [1, 2], max_steps=10)
    assert told == [[0.0, 0.0], [0.25, 0.5], [0.5]]


def test_an_episode_may_end_at_its_first_success_or_at_the_step_limit() -> None:
    envs, act = [WalkEnv(), WalkEnv()], act_by_speed([1.0, 0.0], [])
    fast, slow = run_episodes(envs, act, [0, 1], max_steps=5, stop_at_success=True)
    assert (fast.first_success, fast.last_success) == (fast.length - 1, True)
    assert (slow.first_success, slow.length) == (None, 5)


def test_success_is_also_read_from_is_success() -> None:
    class Other(WalkEnv):
        def step(self, action: np.ndarray) -> Any:
            return (*super().step(action)[:-1], {"is_success": self.n_steps == 2})

    (rollout,) = run_episodes([Other()], act_by_speed([0.0], []), [0], max_steps=6)
    assert (rollout.first_success, rollout.last_success) == (1, False)


def test_all_conditions_of_a_task_play_the_same_seeds_and_tasks_play_others(model: LLMDPD) -> None:
    results = evaluate(model, make_cells(TASKS[:2]))
    seeds = {task: {result.seeds for result in results if result.task == task} for task in TASKS[:2]}
    assert [len(of_task) for of_task in seeds.values()] == [1, 1]
    (one,), (other,) = seeds.values()
    assert len(set(one) | set(other)) == 10
    assert [result.condition.name for result in results] == 2 * list(CONDITIONS)


def test_evaluation_never_plays_a_scene_of_the_collected_data() -> None:
    (result,) = evaluate(tiny_model(), [Cell("reach", Condition("none"))], n_episodes=20, seed=7)
    recipe = Recipe("reach", 20, (0.0,), 1, True, seed=7)
    assert {recipe.episode_seed(episode) for episode in range(20)}.isdisjoint(result.seeds)


def test_the_expert_acts_without_the_model_and_reaches_its_ceiling(model: LLMDPD) -> None:
    (result,) = evaluate(model, make_cells(["task-0"], ["expert"]))
    assert result.successes == result.last_successes == (True,) * 5
    assert result.returns == (6.0,) * 5
    assert result.success_rate == 1.0


def test_what_the_policy_is_told_changes_what_it_does(model: LLMDPD) -> None:
    results = evaluate(model, make_cells(["task-0"], ["text", "trajectory", "text+trajectory", "none"]))
    assert len({result.returns for result in results}) == 4


def test_each_episode_is_shown_another_example_in_turns_and_no_failed_one() -> None:
    episodes = [replace(episode, success=n != 1) for n, episode in enumerate(make_episodes(n_tasks=1))]
    prompts = prompts_of(Condition("both", text_of="a", trajectory_of="a"), {"a": episodes}, {"a": "do a"}, 5)
    assert [prompt.trajectory for prompt in prompts] == [episodes[i] for i in (0, 2, 3, 0, 2)]
    assert {prompt.text for prompt in prompts} == {"do a"}


def shown_numbers(
    condition: Condition, episodes: list[Episode], n_episodes: int, same_goal: bool = False
) -> list[list[int]]:
    """Places in ``episodes`` of the examples of each prompt."""
    prompts = prompts_of(condition, {"a": episodes}, {"a": "do a"}, n_episodes, same_goal)
    place = {id(episode): number for number, episode in enumerate(episodes)}
    return [[place[id(example)] for example in prompt.trajectories] for prompt in prompts]


FIVE = Condition("trajectory:5", trajectory_of="a", n_examples=5)


def test_several_examples_are_shown_in_turns_each_prompt_going_on_where_the_last_one_ended():
    episodes = make_episodes(n_tasks=1, n_episodes=8)
    assert shown_numbers(FIVE, episodes, 3) == [[0, 1, 2, 3, 4], [5, 6, 7, 0, 1], [2, 3, 4, 5, 6]]


def test_failed_episodes_are_not_among_several_examples():
    episodes = [replace(e, success=n not in (1, 4)) for n, e in enumerate(make_episodes(1, 8))]
    assert shown_numbers(FIVE, episodes, 2) == [[0, 2, 3, 5, 6], [7, 0, 2, 3, 5]]


def test_all_examples_of_a_prompt_are_different_episodes():
    for n_known in range(5, 12):
        shown = shown_numbers(FIVE, make_episodes(1, n_known, length=2), 20)
        assert all(len(set(numbers)) == 5 for numbers in shown)


def test_with_same_goal_all_examples_of_a_prompt_have_the_goal_of_its_scene():
    episodes = [replace(e, goal=f"{n % 3}") for n, e in enumerate(make_episodes(1, 9, length=2))]
    condition = Condition("trajectory:2", trajectory_of="task-0", n_examples=2)
    cell, examples = Cell("task-0", condition, same_goal=True), {"task-0": episodes}
    prompts = prompts_of(condition, examples, {}, 12, same_goal=True)
    goals = goals_of(cell, examples, 12)
    assert [{example.goal for example in prompt.trajectories} for prompt in prompts] == [{g} for g in goals]
    numbers = [[episodes.index(example) for example in prompt.trajectories] for prompt in prompts]
    assert numbers[:4] == [[0, 3], [1, 4], [2, 5], [3, 6]]


def test_one_example_is_shown_in_the_turns_of_before_whether_goals_are_the_same_or_not():
    episodes = [replace(e, goal=f"{n % 2}") for n, e in enumerate(make_episodes(1, 4, length=2))]
    condition = Condition("trajectory", trajectory_of="a")
    for same_goal in (False, True):
        assert shown_numbers(condition, episodes, 5, same_goal) == [[0], [1], [2], [3], [0]]


def test_several_wrong_examples_of_the_same_task_have_one_other_goal_and_are_different():
    goals = "000111"
    episodes = [replace(e, goal=goal) for goal, e in zip(goals, make_episodes(1, 6, length=2), strict=True)]
    about = dict(text_of="a", trajectory_of="a", other_goal=True, n_examples=2)
    shown = shown_numbers(Condition("wrong-trajectory:2", **about), episodes, 6, same_goal=True)
    for scene, numbers in zip(goals, shown, strict=True):
        assert {goals[number] for number in numbers} == {"1" if scene == "0" else "0"}
        assert len(set(numbers)) == 2


@pytest.mark.parametrize(
    ("same_goal", "message"),
    [
        (False, "'trajectory:5' shows 5 examples of 'a' at once, and there are 4 that did not fail"),
        (True, "'trajectory:5' shows 5 examples of 'a' of one goal at once, and there are 2 that did not"),
    ],
)
def test_too_few_examples_for_a_prompt_are_refused(same_goal, message):
    episodes = [replace(e, goal=f"{n % 2}") for n, e in enumerate(make_episodes(1, 4, length=2))]
    with pytest.raises(ValueError, match=message):
        shown_numbers(FIVE, episodes, 1, same_goal)


def test_several_examples_are_played(model):
    one, several = evaluate(model, make_cells(["task-0"], ["trajectory", "trajectory:3"]))
    assert one.seeds == several.seeds
    assert one.returns != several.returns
    assert several.condition.n_examples == 3


def test_meta_worlds_canonical_sentence_is_told_where_no_other_is_given() -> None:
    prompts = prompts_of(Condition("text", text_of="door-close"), {}, {}, 1)
    assert prompts[0].text == "close the door"


@pytest.mark.parametrize("deterministic", [True, False])
def test_the_same_seed_gives_the_same_numbers_and_another_one_others(model, deterministic):
    def returns(seed: int) -> Any:
        return evaluate(
            model, make_cells(["task-0"], ["trajectory"]), seed=seed, deterministic=deterministic
        )[0]

    assert returns(0) == returns(0)
    assert returns(0).returns != returns(1).returns


def test_a_cell_does_not_depend_on_the_cells_beside_it(model: LLMDPD) -> None:
    alone = evaluate(model, make_cells(["task-1"], ["text"]), deterministic=False)
    among = evaluate(model, make_cells(TASKS, ["none", "text"]), deterministic=False)
    assert alone[0] in among


def test_evaluating_changes_neither_the_models_noise_nor_torchs_threads(model: LLMDPD) -> None:
    noise, threads = model.action_generator.get_state(), th.get_num_threads()
    evaluate(model, make_cells(["task-0"], ["text"]), deterministic=False)
    assert th.equal(model.action_generator.get_state(), noise)
    assert th.get_num_threads() == threads


@pytest.mark.slow
def test_two_processes_play_a_model_file_to_the_same_numbers_as_one_plays_the_model(model, tmp_path):
    model.save(tmp_path / "model.zip")
    cells = make_cells(TASKS[:2], ["text+trajectory", "wrong", "expert"])
    here = evaluate(model, cells, deterministic=False)
    assert evaluate(tmp_path / "model.zip", cells, deterministic=False, n_processes=2) == here


class Counting:
    """A player of one's own: it does as the length of the sentence says, and remembers its steps."""

    def make_act(self, prompts: Any, *, noise_seed: int, deterministic: bool) -> Any:
        n_steps = 0

        def act(observations: np.ndarray, rows: list[int], rewards: np.ndarray) -> np.ndarray:
            nonlocal n_steps
            n_steps += 1
            return np.array([[len(prompts[row].text) / 100, 0.0] for row in rows]) * (n_steps == 2)

        return act


def test_anything_that_makes_acts_can_be_evaluated_and_each_block_begins_afresh() -> None:
    (result,) = evaluate(Counting(), make_cells(["task-0"], ["text"]))
    assert result.returns == pytest.approx((len(TEXTS["task-0"]) / 100,) * 5)


class Noting:
    """Notes the second coordinate of each first observation, which is the goal, and the example's goal."""

    def __init__(self) -> None:
        self.noted: list[tuple[float, str | None]] = []

    def make_act(self, prompts: Any, *, noise_seed: int, deterministic: bool) -> Any:
        def act(observations: np.ndarray, rows: list[int], rewards: np.ndarray) -> np.ndarray:
            trajectories = [prompts[row].trajectory for row in rows]
            goals = [None if trajectory is None else trajectory.goal for trajectory in trajectories]
            self.noted += zip(observations[:, 1].tolist(), goals, strict=True)
            return np.zeros((len(rows), 2))

        return act


def examples_with_goals(goals: Sequence[str | None]) -> dict[str, list[Episode]]:
    """Each ends where its goal is, if it has one."""
    (episode,) = make_episodes(n_tasks=1)[:1]
    ends = [np.full_like(episode.observations[-1:], float(goal or 0)) for goal in goals]
    observations = [np.concatenate([episode.observations[:-1], end]) for end in ends]
    changes = [dict(observations=rows, goal=goal) for rows, goal in zip(observations, goals, strict=True)]
    return {"task-0": [replace(episode, task="task-0", **change) for change in changes]}


def noted(condition: str, goals: Sequence[str | None], **arguments: Any) -> list[tuple[float, str | None]]:
    player = Noting()
    cells = make_cells(["task-0"], [condition], same_goal=True)
    evaluate(player, cells, examples=examples_with_goals(goals), max_episode_steps=1, **arguments)
    return player.noted


@pytest.mark.parametrize(
    ("condition", "goals", "expected"),
    [
        ("text+trajectory", "34", "33 44 33 44 33"),
        ("text", "34", "3- 4- 3- 4- 3-"),  # every condition plays the same goals
        ("wrong-trajectory", "334", "34 34 43"),
        ("wrong-trajectory", "3495", "39 49 93 59"),  # the goal that is farthest away
    ],
)
def test_each_scene_has_the_goal_of_an_example_and_shows_it_or_one_of_another_goal(
    condition: str, goals: str, expected: str
) -> None:
    pairs = expected.split()
    found = noted(condition, list(goals), n_episodes=len(pairs))
    assert [f"{scene:.0f}{shown or '-'}" for scene, shown in found] == pairs


@pytest.mark.parametrize(
    ("condition", "goals", "message"),
    [
        ("wrong-trajectory", ["3", "3"], "the examples of 'task-0' have one goal only, '3'"),
        ("text", [None], "`same_goal` needs the goal of every example"),
        ("text", [], f"the scenes have the goals of the examples {HAS_NO_SUCCESS}"),
    ],
)
def test_goals_that_cannot_be_played_are_refused(condition, goals, message):
    with pytest.raises(ValueError, match=message):
        noted(condition, goals)


def copying(observations: np.ndarray, actions: np.ndarray) -> Any:
    prompt = Prompt(trajectory=(observations, actions))
    act = CopyPlayer().make_act([prompt], noise_seed=0, deterministic=True)
    return lambda observation: act(np.array([observation], np.float32), [0], np.zeros(1))[0].item()


def test_the_copy_does_what_the_example_did_where_it_was_nearest_and_never_goes_back() -> None:
    copy = copying(np.array([[0.0, 9.0], [1.0, 9.0], [2.0, 9.0]]), np.array([[0.1], [0.2], [0.3]]))
    assert [copy([x, 0.0]) for x in (0.4, 0.6, 0.2, 5.0)] == pytest.approx([0.1, 0.2, 0.2, 0.3])


def test_what_the_example_leaves_unchanged_does_not_count_and_the_rest_counts_in_its_own_units() -> None:
    # The second coordinate varies a hundred times as much: what is far in metres is near in its own units.
    copy = copying(np.array([[0.0, 0.0, 5.0], [1.0, 100.0, 5.0]]), np.array([[0.1], [0.2]]))
    assert copy([0.1, 60.0, -100.0]) == pytest.approx(0.1)


def test_the_copy_needs_an_example_that_is_one_array() -> None:
    with pytest.raises(ValueError, match="repeats an example, and the prompt has none"):
        CopyPlayer().make_act([Prompt("reach")], noise_seed=0, deterministic=True)
    with pytest.raises(ValueError, match="observations that are arrays"):
        copying({"a": np.zeros((1, 2))}, np.zeros((1, 1)))


def random_actions(noise_seed: int, n_steps: int = 200, space: spaces.Box | None = None) -> np.ndarray:
    """(n_steps, 2, action_dim), of two rows."""
    space = space or spaces.Box(np.array([-2.0, 0.0], np.float32), np.array([4.0, 0.5], np.float32))
    act = RandomPlayer(space).make_act([Prompt()] * 2, noise_seed=noise_seed, deterministic=True)
    actions = [act(np.zeros((2, 5)), [0, 1], np.zeros(2)) for _ in range(n_steps)]
    assert all(space.contains(action) for of_step in actions for action in of_step)
    return np.stack(actions)


def test_random_actions_are_uniform_in_their_space():
    actions = random_actions(0, n_steps=2_000).reshape(-1, 2)
    np.testing.assert_allclose(actions.mean(axis=0), [1.0, 0.25], atol=0.1)
    np.testing.assert_allclose(actions.std(axis=0), np.array([6.0, 0.5]) / np.sqrt(12), rtol=0.06)


def test_random_actions_are_those_of_their_seed():
    np.testing.assert_array_equal(random_actions(3), random_actions(3))
    assert not np.array_equal(random_actions(3), random_actions(4))


def test_random_actions_of_rows_and_steps_differ():
    actions = random_actions(0, n_steps=3).reshape(-1, 2)
    assert len(np.unique(actions, axis=0)) == 6


def test_random_actions_have_the_shape_of_their_space():
    space = spaces.Box(-1.0, 1.0, (2, 3), np.float64)
    actions = random_actions(0, 1, space)
    assert (actions.shape, actions.dtype) == ((1, 2, 2, 3), np.float64)


def test_random_actions_are_evaluated_in_the_place_of_a_model():
    cells = make_cells(TASKS[:2], ["none"])
    one, again = (evaluate(RandomPlayer(WalkEnv.action_space), cells) for _ in range(2))
    assert one == again
    assert len({total for result in one for total in result.returns}) == 10


def test_rows_that_go_on_have_their_own_prompts_and_states_and_others_begin():
    prompts = [Prompt(str(row)) for row in range(4)]
    shown, (state,), starts = rows_of_block(prompts, {1: "one", 3: "three"}, [3, 0, 1])
    assert [prompt.text for prompt in shown] == ["3", "0", "1"]
    assert state.tolist() == ["three", None, "one"]
    assert starts.tolist() == [False, True, False]


def test_a_state_that_is_an_array_stays_one_entry():
    _, (state,), _ = rows_of_block([Prompt()] * 2, {0: np.ones(2), 1: np.zeros(2)}, [0, 1])
    assert state.shape == (2,)


def test_the_copy_is_a_condition_of_its_own(model: LLMDPD) -> None:
    copy, again, text = evaluate(model, make_cells(["task-0"], ["copy", "copy", "text"]))
    assert copy.returns == again.returns != text.returns


def test_meta_worlds_expert_reaches_in_its_own_scenes() -> None:
    model = tiny_model(dataset=make_episodes(observation_dim=39, action_dim=4))
    options: dict[str, Any] = {"n_episodes": 2, "stop_at_success": True, "max_episode_steps": 120}
    cells = make_cells(["reach"], ["expert"])
    (result,) = evaluate_tasks(model, cells, n_processes=1, progress_bar=False, **options)
    assert result.successes == (True, True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_episodes": 0}, "`n_episodes` must be at least 1, got 0"),
        ({"n_envs": 0}, "`n_envs` must be at least 1, got 0"),
        ({"max_episode_steps": -1}, "`max_episode_steps` must be at least 1"),
        ({"n_processes": 0}, "`n_processes` must be at least 1, or None"),
        ({"examples": {"task-1": []}}, rf"'text\+trajectory' {HAS_NO_EXAMPLE}"),
        ({"texts": {}}, "unknown Meta-World task 'task-0'"),
        ({"examples": {"task-0": make_episodes(observation_dim=4)}}, "row of `observations` must have"),
    ],
)
def test_impossible_arguments_are_refused_before_anything_is_played(model, arguments, message):
    def make_env(task: str) -> Any:
        raise AssertionError("played")

    with pytest.raises(ValueError, match=message):
        evaluate(model, make_cells(["task-0"], ["text+trajectory"]), **{"make_env": make_env, **arguments})


def test_an_evaluation_of_nothing_is_refused(model: LLMDPD) -> None:
    with pytest.raises(ValueError, match="`cells` is empty"):
        evaluate(model, [])
