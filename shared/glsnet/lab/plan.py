"""What is to be coded, by whom, and what came of it: what every way to run has in common.

    Plan       samples, and the halves of a code
    Parties    services that run
    NamedBroker    a broker that does
    Drawn      one frame's samples, and what was drawn for them
    Ended      the end of a run
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from glsnet.compression import DecoderCode, EncoderCode, Outcomes, Samples
from glsnet.faults import Fault
from glsnet.frames import Terms
from glsnet.sources.gaussian import SideInformation
from glsnet.transport.exchange import PATIENCE, Metered
from glsnet.transport.mqtt import Broker
from glsnet.transport.security import LOCAL, Security


@dataclass(frozen=True)
class Gap:
    """Rounds in which a decoder was missing: they came after it had been given up, if they came at all."""

    decoder: int
    first_round: int
    rounds: int


def add_gap(gaps: list[Gap], decoder: int, first_round: int, rounds: int) -> None:
    """One more, or one that goes on."""
    for at, last in enumerate(gaps):
        if (last.decoder, last.first_round + last.rounds) == (decoder, first_round):
            gaps[at] = replace(last, rounds=last.rounds + rounds)
            return
    gaps.append(Gap(decoder, first_round, rounds))


@dataclass(frozen=True)
class Parties:
    """Addresses, HOST:PORT, of services that run; `links` are those by which each decoder reaches the encoder.

    `security` is the lab's, by which it dials them. With a `broker` that is what encoder and decoders dial, and where
    the links lead.
    """

    encoder: str
    decoders: list[str]
    links: list[str] | None = None
    security: Security = LOCAL
    broker: Broker | None = None

    def encoder_for(self, k: int) -> str:
        """The encoder's address, as decoder k is to dial it."""
        return self.encoder if self.links is None else self.links[k]

    def broker_for(self, k: int) -> Broker | None:
        """The broker, as decoder k is to dial it."""
        return self.broker if self.broker is None or self.links is None else replace(self.broker, address=self.links[k])


@dataclass(frozen=True)
class NamedBroker:
    """An MQTT broker that runs already, HOST:PORT, and what parties that are started here are to it.

    `options` say who they are, `security` how they dial it, and are dialled.
    """

    address: str
    options: tuple[str, ...] = ()
    security: Security = LOCAL


@dataclass(frozen=True)
class Drawn:
    """One frame's samples, R and [R, K] of them, and what the parties drew for them."""

    a: Samples
    t: Samples
    y: Outcomes
    x: list[Outcomes]


@dataclass(frozen=True)
class Ended:
    """The end of a run: the digest of all indices, and each decoder's bytes; those of the network only over gRPC.

    A decoder that was missing at the end has no bytes; `missing` says in which rounds one was; `faults` what was
    asked for and what came of it. `seconds`
    says, over gRPC, on what each party has spent them, the encoder first; `elapsed` is the lab's. `uplink` is what the
    encoder's connection to a broker took, if there was one.
    """

    digest: bytes
    metered: Sequence[Metered | None]
    on_network: bool
    seconds: list[dict[str, float]] = field(default_factory=list)
    elapsed: float = math.nan
    missing: list[Gap] = field(default_factory=list)
    faults: dict[str, Any] = field(default_factory=dict)
    uplink: Metered | None = None


@dataclass(frozen=True)
class Plan:
    """What is to be coded, and by which halves of a code.

    `decoders` makes each decoder's half where all runs in this process; services make it from the terms and, of a
    Gaussian source, `sides`. `frames()` gives a and t, R and [R, K] samples, frame by frame. `options` are those of
    parties that are started here, as `faults` are theirs; `patience` is the lab's with a decoder, and `every` the time
    between one frame and the next, seconds. Of mqtt, `broker` is one that runs already, None has one started here, too.
    """

    transport: str
    seed: bytes
    code: EncoderCode
    decoders: Sequence[Callable[[Terms], DecoderCode]]
    sides: Sequence[SideInformation | None]
    frames: Callable[[], Iterator[tuple[Samples, Samples]]]
    options: tuple[str, ...] = ()
    patience: float = PATIENCE
    every: float = 0.0
    faults: tuple[Fault, ...] = ()
    fault_seed: int = 1
    broker: NamedBroker | None = None
    qos: int = 1
