"""What a network may cost on its device: one record for each limit. No torch.

A limit has a closed form, so `space.network` finds the width that stays within all of them. To add one, name it in
`LimitName`, give it a record here, a field in `Limits` and a key in the study file.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

from train_core.examples import FormatName
from train_core.footprint import FOOTPRINTS, file_size, memory
from train_core.latency import LatencyModel
from train_core.specs import ResNetSpec, num_madds, num_params
from train_core.tables import table

LimitName = Literal["parameters", "madds", "memory", "file", "latency"]
Size = tuple[int, int]
Cost = Callable[[ResNetSpec], float]


class Limits(NamedTuple):
    """The most that a network may cost, and the facts about its device that determine the cost; None: no limit."""

    parameters: int
    madds: int | None = None
    memory: int | None = None  # bytes
    file: int | None = None  # bytes
    latency: float | None = None  # seconds
    format: FormatName = "onnx"  # of the exported file: it determines the size of numbers
    timed: LatencyModel | None = None  # how long networks take on this machine; needed for a limit on latency
    front: tuple[
        LimitName, ...
    ] = ()  # costs along which networks of every size are searched; empty: not a search along a front

    @classmethod
    def of(cls, budget: "int | Limits") -> "Limits":
        """The limits for `budget`; a number alone is a limit on parameters."""
        return budget if isinstance(budget, Limits) else cls(budget)

    def bounds(self, size: Size) -> list["Bound"]:
        """Each limit, for images of this size (height, width)."""
        return [Bound(limit.of(self, size), most, limit, self._is_shared(limit)) for limit, most in self._set()]

    def fits(self, network: ResNetSpec, size: Size) -> bool:
        """Whether a network is within all limits."""
        return all(each.holds(network) for each in self.bounds(size))

    def over(self, network: ResNetSpec, size: Size) -> "Limit | None":
        """The first limit that a network exceeds; None: it exceeds none."""
        return next((limit for limit, most in self._set() if limit.of(self, size)(network) > most), None)

    def costs(self, network: ResNetSpec, size: Size) -> Iterator[tuple["Limit", float, float]]:
        """Each limit, the network's cost in its unit, and the most that is allowed."""
        return ((limit, limit.of(self, size)(network), most) for limit, most in self._set())

    def _is_shared(self, limit: "Limit") -> bool:
        return limit in [LIMITS[name] for name in self.front] if self.front else limit.is_shared

    def others_in_words(self, network: ResNetSpec, size: Size) -> str:
        """The network's costs other than parameters and multiply-adds: `, 24.6 kB of memory`."""
        known = (LIMITS["parameters"], LIMITS["madds"])
        return "".join(f", {limit.words(cost)}" for limit, cost, _ in self.costs(network, size) if limit not in known)

    def _set(self) -> list[tuple["Limit", float]]:
        given = ((limit, getattr(self, name)) for name, limit in LIMITS.items())
        return [(limit, most) for limit, most in given if most is not None]

    def __str__(self) -> str:
        """In words: `5,000,000 parameters, 300,000,000 multiply-adds and 100 kB of memory`."""
        words = [limit.words(most) for limit, most in self._set()]
        return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


class Bound(NamedTuple):
    """A function for the cost of a network, and the most that is allowed."""

    cost: Cost
    most: float
    limit: "Limit"
    is_shared: bool  # whether `budget_fraction` takes a share of it

    def holds(self, network: ResNetSpec) -> bool:
        """Whether the network is within the bound."""
        return self.cost(network) <= self.most

    def share(self, fraction: float, least: ResNetSpec) -> "Bound":
        """The bound for a network that takes this share of it, but at least the cost of `least`."""
        return self._replace(most=max(fraction * self.most, self.cost(least))) if self.is_shared else self

    def part(self, fraction: float) -> "Bound":
        """The bound reduced to a share: a size that was drawn along a front."""
        return self._replace(most=fraction * self.most) if self.is_shared else self


@dataclass(frozen=True, kw_only=True)
class Limit:
    """One kind of limit."""

    key: str  # in study files
    flag: str  # of `search run`
    of: Callable[[Limits, Size], Cost]  # how a network's cost is computed
    words: Callable[[float], str]  # an amount in words
    short: Callable[[float], str]  # an amount in the name of a run
    asked: Callable[[float], str]  # the smallest amount that the flag would need
    is_shared: bool = False
    """`budget_fraction` takes a share of it, if the study has no front. False if networks of many widths cost the same:
    a drawn share would then not determine the network."""
    grows_with_depth: bool = True  # each block adds to it
    by_format: bool = False  # the cost depends on the format of the network's file


def _predicted(limits: Limits, size: Size) -> Cost:
    timed = limits.timed
    if timed is None:
        raise ValueError("a limit on latency needs a model of this machine's latency")
    return lambda spec: timed.at_most(spec, size)


def short_count(count: float) -> str:
    """A count as a short name: 5_000_000 is 5M, 200_000 is 200k, 4_976_426 is unchanged."""
    for unit, suffix in ((1_000_000, "M"), (1_000, "k")):
        if count >= unit and count * 10 % unit == 0:
            return f"{count / unit:g}{suffix}"
    return str(count)


def bytes_in_words(number: float) -> str:
    """For example `100 kB`, of 1,000 bytes each, or `1.5 MB`; if these would round the number, `65,536 bytes`."""
    whole = math.ceil(number)
    for unit, name in ((1_000_000, "MB"), (1000, "kB")):
        if whole >= unit and whole * 100 % unit == 0:
            return f"{whole / unit:g} {name}"
    return f"{whole:,} bytes"


LIMITS: dict[LimitName, Limit] = table(
    "limit",
    LimitName,
    {
        "parameters": Limit(
            key="budget",
            flag="--budget",
            of=lambda _limits, _size: num_params,
            words=lambda most: f"{most:,} parameters",
            short=short_count,
            is_shared=True,
            asked=lambda most: str(math.ceil(most)),
        ),
        "madds": Limit(
            key="max_madds",
            flag="--max-madds",
            of=lambda _limits, size: lambda spec: num_madds(spec, size),
            words=lambda most: f"{most:,} multiply-adds",
            short=lambda most: f"{short_count(most)}-madds",
            is_shared=True,
            asked=lambda most: str(math.ceil(most)),
        ),
        "memory": Limit(
            key="max_memory",
            flag="--max-memory",
            of=lambda limits, size: lambda spec: memory(spec, size, limits.format),
            words=lambda most: f"{bytes_in_words(most)} of memory",
            short=lambda most: f"{short_count(most)}B-memory",
            by_format=True,
            grows_with_depth=False,
            asked=lambda most: str(math.ceil(most)),
        ),
        "file": Limit(
            key="max_file",
            flag="--max-file",
            of=lambda limits, _size: (
                lambda spec: (1 + FOOTPRINTS[limits.format].file_error) * file_size(spec, limits.format)
            ),
            words=lambda most: f"{bytes_in_words(most)} of model file",
            short=lambda most: f"{short_count(most)}B-file",
            by_format=True,
            asked=lambda most: str(math.ceil(most)),
        ),
        "latency": Limit(
            key="max_latency",
            flag="--max-latency",
            of=_predicted,
            words=lambda most: f"{1000 * most:.3g} ms an image",
            short=lambda most: f"{1000 * most:g}ms",
            asked=lambda most: f"{math.ceil(1e5 * most) / 100:g}ms",
        ),
    },
)

COSTS = tuple("params" if name == "parameters" else name for name in LIMITS)
"""The names of the limits, in the same order, as a user gives them to `--front`."""
