"""What goes wrong, and when, as a scenario says it: impairments of links, and of the parties' processes.

    Fault        one [[faults]] table
    read         all of a file's
    spans        when it is in force; schedule: the same for one party of a run
    delay        what a latency adds to one message, or chunk of bytes
    concerns     whether it is about a party

The real links (`transport.links`) and the simulated ones (`transport.simulated`) both go by these definitions.
"""

import math
import random
import tomllib
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from glsnet.errors import CallerError

Kind = Literal["latency", "bandwidth", "slicer", "slow_close", "timeout", "reset_peer", "limit_data", "corrupt", "down",
               "loss", "duplicate", "reorder", "skew", "kill", "pause", "late"]
OF_PARTIES = ("kill", "pause", "late")
SIMULATED = ("loss", "duplicate", "reorder", "skew")  # TCP hides them from whoever uses it
PARETO = 3.0  # shape: heavy, with a finite variance
# What each kind needs, and what it may have besides.
_NEEDS: dict[str, tuple[str, ...]] = {
    "latency": ("delay",), "bandwidth": ("rate",), "slicer": ("size", "gap"), "slow_close": ("delay",),
    "limit_data": ("size",), "corrupt": ("chance",), "loss": ("chance",), "duplicate": ("chance",),
    "reorder": ("chance",), "skew": ("factor",),
}
_MAY: dict[str, tuple[str, ...]] = {
    "latency": ("jitter", "distribution", "trace", "ramp"), "corrupt": ("ramp",), "loss": ("ramp",),
    "duplicate": ("ramp",), "reorder": ("ramp",),
}
_PARAMETERS = ("delay", "jitter", "distribution", "trace", "rate", "size", "gap", "chance", "factor", "ramp")


class Fault(BaseModel):
    """One thing that goes wrong, again and again perhaps."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, populate_by_name=True)

    on: str = Field(pattern=r"^(encoder|target|(decoder|drafter|client) (\d+|\*))$", description="the link between "
                    "this party and its encoder or target (`decoder 2`, `drafter *`); of kill, pause, late: the party")
    kind: Kind = Field(description="latency, bandwidth, slicer, slow_close, timeout (a black hole), reset_peer, "
                       "limit_data, corrupt, down; loss, duplicate, reorder, skew (simulator only); kill, pause, late")
    direction: Literal["down", "up", "both"] = Field("both", description="down is towards the decoder or drafter")
    delay: float | None = Field(None, ge=0, description="latency: seconds one way; slow_close: of the end")
    jitter: float | None = Field(None, ge=0, description="latency: uniform within delay +- jitter; normal of "
                                 "this standard deviation, cut off at 0; or Pareto of this mean, beyond delay")
    distribution: Literal["constant", "uniform", "normal", "pareto", "trace"] | None = Field(
        None, description="latency: how jitter is distributed; trace draws from the lines of a file")
    trace: str | None = Field(None, min_length=1, description="latency: file with a delay in milliseconds on each "
                              "line, added to `delay`")
    rate: float | None = Field(None, gt=0, description="bandwidth: bytes per second")
    size: int | None = Field(None, ge=1, description="slicer: bytes in a slice; limit_data: bytes until the end")
    gap: float | None = Field(None, ge=0, description="slicer: seconds between slices")
    chance: float | None = Field(None, ge=0, le=1, description="corrupt: that a chunk of bytes, or a message, has "
                                 "one bit flipped; loss, duplicate, reorder: of each message")
    factor: float | None = Field(None, gt=0, description="skew: this party's clock runs so many times as fast")
    at: float = Field(0.0, ge=0, description="seconds after the first round may begin")
    lasting: float | None = Field(None, gt=0, alias="for", description="seconds; without, to the end. kill, pause: the "
                                  "party starts, or goes on, after so long")
    every: float | None = Field(None, gt=0, description="again each so many seconds")
    ramp: float | None = Field(None, gt=0, description="latency and chances grow from 0 over so many seconds")
    mean_up: float | None = Field(None, gt=0, description="instead of at and for: exponential times without the fault, "
                                  "of this mean in seconds")
    mean_down: float | None = Field(None, gt=0, description="and with it")

    @model_validator(mode="after")
    def _goes_together(self) -> Self:
        needs, may = _NEEDS.get(self.kind, ()), _MAY.get(self.kind, ())
        given = [name for name in _PARAMETERS if getattr(self, name) is not None]
        for name in needs:
            if name not in given:
                raise ValueError(f"{name} with kind {self.kind}")
        for name in given:
            if name not in (*needs, *may):
                raise ValueError(f"no {name} with kind {self.kind}")
        if (self.distribution == "trace") != (self.trace is not None):
            raise ValueError("trace and distribution = \"trace\" together")
        if (self.jitter is not None) != (self.distribution in ("uniform", "normal", "pareto")):
            raise ValueError("jitter and its distribution, uniform, normal or pareto, together")
        if self.every is not None and (self.lasting is None or self.lasting >= self.every):
            raise ValueError("with every a shorter for")
        if (self.mean_up is None) != (self.mean_down is None):
            raise ValueError("mean_up and mean_down together")
        if self.mean_up is not None and (self.at or self.lasting or self.every):
            raise ValueError("no at, for or every with mean_up and mean_down")
        if self.on in ("encoder", "target") and self.kind not in (*OF_PARTIES, "skew"):
            raise ValueError("a link, which has the name of the party that dials, with kind " + self.kind)
        if self.kind == "late" and (self.lasting or self.every or self.mean_up):
            raise ValueError("just at with kind late")
        return self


def faults_of(tables: Sequence[dict[str, Any]]) -> tuple[Fault, ...]:
    """Faults of a scenario's or a file's tables.

    Raises:
        CallerError: one is not possible; the text has its number and the key.
    """
    made = []
    for number, table in enumerate(tables):
        try:
            made.append(Fault.model_validate(table))
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(map(str, first["loc"]))
            wanted = first["msg"].removeprefix("Value error, ").removeprefix("Input ").removeprefix("should be ")
            raise CallerError(f"faults[{number}]{f'.{key}' if key else ''}: expected {wanted}, got {table}") from None
    return tuple(made)


def read(path: Path) -> tuple[Fault, ...]:
    """Faults of a TOML file of [[faults]] tables.

    Raises:
        CallerError: it cannot be read, has anything else, or a fault is not possible.
    """
    try:
        tables = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise CallerError(f"--faults: expected a TOML file, got {path}: {error}") from error
    if tables.keys() != {"faults"} or not isinstance(tables["faults"], list):
        raise CallerError(f"--faults: expected [[faults]] tables and nothing else in {path}, got "
                          f"{', '.join(tables) or 'none'}")
    try:
        return faults_of(tables["faults"])
    except CallerError as error:
        raise CallerError(f"{path}: {error}") from None


def concerns(fault: Fault, party: str) -> bool:
    """Whether a fault is on a party, or on its link."""
    return fault.on == party or (fault.on.endswith("*") and party.startswith(fault.on[:-1]))


def spans(fault: Fault, rng: random.Random) -> Iterator[tuple[float, float]]:
    """When a fault is in force: [from, below), one after another, without end if it comes again and again."""
    return _random_times(fault, rng) if fault.mean_up else _times(fault)


def schedule(fault: Fault, seed: int, number: int, party: str) -> Iterator[tuple[float, float]]:
    """Its `spans` with a party, or on its link, in a run with this seed, whose fault number so many it is."""
    return spans(fault, random.Random(f"{seed} {number} {party}"))


def _times(fault: Fault) -> Iterator[tuple[float, float]]:
    start = fault.at
    while True:
        yield start, math.inf if fault.lasting is None else start + fault.lasting
        if fault.every is None:
            return
        start += fault.every


def _random_times(fault: Fault, rng: random.Random) -> Iterator[tuple[float, float]]:
    assert fault.mean_up is not None and fault.mean_down is not None
    end = 0.0
    while True:
        start = end + rng.expovariate(1 / fault.mean_up)
        end = start + rng.expovariate(1 / fault.mean_down)
        yield start, end


def delay(fault: Fault, since_onset: float, rng: random.Random) -> float:
    """What a latency adds, seconds, at least 0: a draw of its distribution.

    constant: delay. uniform: on [delay - jitter, delay + jitter]. normal: mean delay, standard deviation jitter; below
    0 is 0. pareto: delay + 2 jitter (X - 1), X Pareto of shape 3, so that the excess has mean jitter. trace: delay and
    one of the file's lines.
    """
    base, jitter = fault.delay or 0.0, fault.jitter or 0.0
    match fault.distribution:
        case "uniform":
            base += rng.uniform(-jitter, jitter)
        case "normal":
            base = rng.gauss(base, jitter)
        case "pareto":
            base += (PARETO - 1) * jitter * (rng.paretovariate(PARETO) - 1)
        case "trace":
            assert fault.trace is not None
            base += rng.choice(read_trace(fault.trace))
    return max(0.0, base) * share(fault, since_onset)


def share(fault: Fault, since_onset: float) -> float:
    """How much of a fault that ramps up is there yet, 0 to 1."""
    return 1.0 if fault.ramp is None else min(1.0, since_onset / fault.ramp)


@cache
def read_trace(path: str) -> tuple[float, ...]:
    """The delays of a trace file, seconds; raises CallerError if it cannot be read or is none."""
    try:
        delays = tuple(float(line) / 1000 for line in Path(path).read_text("utf-8").split())
    except (OSError, ValueError) as error:
        raise CallerError(f"trace: expected a file with a delay in milliseconds on each line, got {path}: {error}"
                          ) from error
    if not delays or not all(0 <= each < math.inf for each in delays):
        raise CallerError(f"trace: expected at least one delay, and none below 0, in {path}")
    return delays
