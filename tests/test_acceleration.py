"""Ways to train faster: what they may change, what they may not, and what is refused."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch as th
from factories import differing, snapshot, tiny_model
from stable_baselines3.common.logger import Logger
from test_losses import as_on_a_gpu
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from sb3_llmdpd import LLMDPD
from sb3_llmdpd.llmdpd import acceleration
from sb3_llmdpd.llmdpd.acceleration import GraphedUpdate
from sb3_llmdpd.networks.attention import CONDITIONINGS


def assert_near(one: LLMDPD, other: LLMDPD, **tolerances: float) -> None:
    for weight, expected in zip(snapshot(one.policy).values(), snapshot(other.policy).values(), strict=True):
        assert_close(weight, expected, **tolerances)


def test_the_precision_of_products_is_set_while_a_model_learns_and_set_back_after():
    model, seen = tiny_model(acceleration={"matmul_precision": "medium"}), []
    model.learn(1, callback=lambda *_: bool(seen.append(th.get_float32_matmul_precision())) or True)
    assert (seen, th.get_float32_matmul_precision()) == (["medium"], "highest")


def test_the_precision_is_set_back_when_learning_fails():
    def fail(*_: Any) -> bool:
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        tiny_model(acceleration={"matmul_precision": "medium"}).learn(1, callback=fail)
    assert th.get_float32_matmul_precision() == "highest"


def test_in_bfloat16_the_losses_are_nearly_those_of_float32_and_weights_stay_float32():
    model, plain = tiny_model(acceleration={"bfloat16": True}), tiny_model()
    batch, noise = plain.replay_buffer.sample(24), plain.losses.draw_noise(3, 8, 8, plain.generator)
    metrics, expected = (each.gradient_step.update(batch, noise, 0.5) for each in (model, plain))
    for name in expected:
        assert_close(metrics[name].float(), expected[name], rtol=0.05, atol=0.02)
        assert not th.equal(metrics[name].float(), expected[name])
    assert {value.dtype for value in model.policy.parameters()} == {th.float32}


def test_a_copy_of_a_model_learns_by_itself():
    model = tiny_model(acceleration={"bfloat16": True}).learn(2)
    other, before = copy.deepcopy(model), snapshot(model.policy)
    other.learn(2, reset_num_timesteps=False)
    assert differing(model.policy, before) == set()
    assert differing(other.policy, before)
    assert all(weights.grad is not None for weights in other.critic.parameters())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of what PyTorch compiles with
def test_compiled_losses_learn_what_the_plain_ones_do():
    models = tiny_model(acceleration={"compile": True}), tiny_model()
    assert_near(*(model.learn(6, log_interval=None) for model in models), rtol=1e-3, atol=1e-4)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("conditioning", CONDITIONINGS)
@pytest.mark.parametrize("critic_objective", ["td", "expectile"])
def test_each_loss_is_compiled_in_one_piece(critic_objective, conditioning):
    kwargs = dict(critic_objective=critic_objective, policy_kwargs=dict(conditioning=conditioning))
    model = tiny_model(prompt_noise=0.1, **kwargs)
    batch, noise = model.replay_buffer.sample(24), model.losses.draw_noise(3, 8, 8, model.generator)
    encoded = model.losses.encode_for_critic(batch)
    th.compiler.reset()  # a loss is compiled a few times only, whatever the model: those of other tests count
    for loss in (model.losses.critic_loss, model.losses.actor_loss):
        whole = th.compile(loss, backend="eager", fullgraph=True)
        assert_close(whole(batch, encoded, noise)[0], loss(batch, encoded, noise)[0])


class Tape(TorchDispatchMode):
    """Operations on fixed memory, as a CUDA graph keeps them; numbers of Python stay as they were."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, Any]] = []
        self.before: dict[int, tuple[th.UntypedStorage, th.UntypedStorage]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        tree_map_only(th.Tensor, self._keep, (args, kwargs))
        result = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, result))
        return result

    def _keep(self, tensor: th.Tensor) -> None:
        memory = tensor.untyped_storage()
        if memory.data_ptr() not in self.before:
            self.before[memory.data_ptr()] = (memory, memory.clone())

    def undo(self) -> None:
        """A capture does nothing."""
        for memory, value in self.before.values():
            memory.copy_(value)

    def replay(self) -> None:
        """Do it again, in the same memory."""
        for func, args, kwargs, result in self.calls:
            again = func(*args, **kwargs)
            views = func.is_view or "alias" in str(func)
            for old, new in zip(leaves(result), leaves(again), strict=True):
                if not views and old is not new:
                    old.data.copy_(new)


def leaves(tree: Any) -> list[th.Tensor]:
    found: list[th.Tensor] = []
    tree_map_only(th.Tensor, found.append, tree)
    return found


class FakeGraph:
    """Stands for `torch.cuda.CUDAGraph`."""

    n_replays = 0

    def replay(self) -> None:
        FakeGraph.n_replays += 1
        with th.no_grad():
            self.tape.replay()


@contextmanager
def capture(graph: FakeGraph, stream: Any) -> Iterator[None]:
    graph.tape = Tape()
    with graph.tape:
        yield
    graph.tape.undo()


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a recorder in the place of CUDA, and let the code take the path of a GPU."""
    as_on_a_gpu(monkeypatch)

    class Stream:
        def __init__(self, device: Any = None) -> None: ...

        def wait_stream(self, other: Any) -> None: ...

    @contextmanager
    def on(stream: Stream) -> Iterator[None]:
        yield

    monkeypatch.setattr(FakeGraph, "n_replays", 0)
    fakes = dict(Stream=Stream, current_stream=Stream, stream=on, CUDAGraph=FakeGraph, graph=capture)
    for name, fake in fakes.items():
        monkeypatch.setattr(acceleration.th.cuda, name, fake)


def as_in_learn(model: LLMDPD) -> LLMDPD:
    """With a logger and a watch, and rates as a graph wants them."""
    model.set_logger(Logger(None, []))
    model._start_watch(model.replay_buffer)
    for optimizer in (model.actor.optimizer, model.critic.optimizer):
        optimizer.param_groups[0]["lr"] = th.tensor(optimizer.param_groups[0]["lr"])
    return model


@pytest.mark.usefixtures("recorder")
@pytest.mark.parametrize("critic_objective", ["td", "expectile"])
@pytest.mark.parametrize("conditioning", CONDITIONINGS)
def test_a_replayed_update_learns_what_the_plain_one_does(conditioning, critic_objective):
    """Each step has its own batch, noise, learning rate and weight of the average."""

    def rate(progress: float) -> float:
        return 1e-2 * progress

    how = dict(critic_objective=critic_objective, policy_kwargs=dict(conditioning=conditioning))
    plain, graphed = (as_in_learn(tiny_model(learning_rate=rate, **how)) for _ in range(2))
    step = graphed.gradient_step
    step.graphed_update = GraphedUpdate(step.update, th.device("cpu"))
    for model in (plain, graphed):
        for progress in (1.0, 0.8, 0.6, 0.4, 0.3, 0.2, 0.1):
            model._current_progress_remaining = progress
            model.train(1, model.batch_size)
    assert FakeGraph.n_replays == 4
    for name, total in plain._metrics.sums.items():
        assert_close(graphed._metrics.sums[name], total)
    assert_near(graphed, plain)


@pytest.mark.usefixtures("recorder")
def test_another_batch_size_is_captured_anew():
    model = as_in_learn(tiny_model())
    model.gradient_step.graphed_update = GraphedUpdate(model.gradient_step.update, th.device("cpu"))
    for batch_size in [24] * 5 + [12] * 5:
        model.train(1, batch_size)
    assert FakeGraph.n_replays == 4


def test_a_graph_without_a_gpu_is_refused_before_anything_is_learned():
    model = tiny_model(acceleration={"cuda_graph": True})
    before = snapshot(model.policy)
    with pytest.raises(ValueError, match="cuda_graph needs a CUDA device, and the model is on 'cpu'"):
        model.learn(1)
    assert differing(model.policy, before) == set()


def test_a_file_holds_the_rate_of_a_captured_optimiser_as_a_number(tmp_path):
    model = as_in_learn(tiny_model(learning_rate=0.25))
    model.save(tmp_path / "model.zip")
    assert LLMDPD.load(tmp_path / "model.zip").actor.optimizer.param_groups[0]["lr"] == 0.25


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ("compile", TypeError, r" must be None or a dict such as \{'compile': True\}, got 'compile'"),
        ({"compile": 1}, TypeError, ": compile must be True or False, got 1"),
        ({"graph": True}, ValueError, " knows matmul_precision, compile, bfloat16, cuda_graph; got 'graph'"),
        ({"matmul_precision": "low"}, ValueError, r".* one of \('highest', 'high', 'medium'\), got 'low'"),
    ],
)
def test_what_cannot_be_asked_for_is_refused(given, error, message):
    with pytest.raises(error, match=f"`acceleration`{message}"):
        tiny_model(acceleration=given)


def test_what_was_asked_for_is_in_the_model_file(tmp_path):
    tiny_model(acceleration={"matmul_precision": "high"}).save(tmp_path / "model.zip")
    assert LLMDPD.load(tmp_path / "model.zip").acceleration == {"matmul_precision": "high"}
    assert LLMDPD.load(tmp_path / "model.zip", acceleration=None).acceleration is None
