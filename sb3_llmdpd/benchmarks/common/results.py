"""The common part of the results of benchmarks, and how those of an earlier call are kept."""

import platform
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from sb3_llmdpd.common.processes import n_cores

Entry = TypeVar("Entry")
Value = TypeVar("Value")


@dataclass(frozen=True)
class BenchmarkResults:
    """The common part of all results.

    :param settings: settings that all trainings share, as JSON values.
    :param variants: knowledge of each variant by its name, in the order of the tables.
    :param hardware: machine that it ran on, as JSON values.
    :param versions: versions of Python and the packages.
    """

    settings: Mapping[str, Any]
    variants: Mapping[str, Any]
    hardware: Mapping[str, Any]
    versions: Mapping[str, str | None]

    @property
    def made_with(self) -> str:
        """Sentences that name the hardware and the versions."""
        versions = ", ".join(f"{name} {found}" for name, found in self.versions.items() if found is not None)
        device = f", device {self.hardware['device']}" if "device" in self.hardware else ""
        machine = f"{self.hardware['cores']} cores, {self.hardware['machine']}{device}"
        return f"Hardware: {machine}. Versions: {versions}."


def hardware_here() -> dict[str, Any]:
    """Describe this machine, as JSON values."""
    return {"machine": platform.machine(), "cores": n_cores()}


def kept(
    earlier: Sequence[Entry], now: Iterable[Entry], training_of: Callable[[Entry], Hashable]
) -> tuple[Entry, ...]:
    """Keep the results of trainings that this call did not ask for.

    :param earlier: results of an earlier call.
    :param now: results of this one.
    :param training_of: tells the training that a result is of.
    :return: those of ``earlier`` whose training is not in ``now``, and then those of ``now``.
    """
    made = tuple(now)
    here = {training_of(entry) for entry in made}
    return (*(entry for entry in earlier if training_of(entry) not in here), *made)


def in_order(variants: Mapping[str, Value], listed: Iterable[str]) -> dict[str, Value]:
    """Sort variants as a benchmark lists them.

    :param variants: variants by name.
    :param listed: names in their order; unlisted variants come last, in the order that they have.
    """
    order = {name: number for number, name in enumerate(listed)}
    return dict(sorted(variants.items(), key=lambda item: order.get(item[0], len(order))))
