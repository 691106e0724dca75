"""Records to rows: repetitions as means with standard errors, and the published figures beside them.

    summarise          records -> rows, one for all repetitions of the same settings
    beside_published   rows -> those of published cells, each beside what was published
"""

import csv
import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, NamedTuple

import numpy as np

Record = dict[str, Any]

PARAMETERS = ("sigma2", "step", "candidates", "beta")  # that can be searched

_LEAST = 1e-300  # of an exact reconstruction, whose dB would be infinite
_PUBLISHED_RESIDUAL = 1 / 3  # of the source's variance, given one T: A ~ N(0, 1), T = A + N(0, 0.5)


class Measured(NamedTuple):
    """A mean and its standard error."""

    value: float
    error: float

    @property
    def decibels(self) -> "Measured":
        """The dB of the mean, not the mean of dB; its error by the delta method."""
        return Measured(decibels(self.value), 10 / math.log(10) * self.error / max(self.value, _LEAST))


@dataclass(frozen=True)
class Row:
    """What the repetitions of the same settings came to: means. Squared errors are shares of the source's variance.

    What a scheme has not is None: a bound on matches, H(M | shared randomness), or a layer of bits.
    """

    scheme: str
    decoders: int
    l_max: int
    packing: str
    transport: str
    frame: int
    parameter: str  # "sigma2" or, for quantisers, "step"
    parameter_value: float  # where it was searched, the most frequent choice
    minimised: str  # "mse" or "mean_db", where the parameter was searched; else ""
    repetitions: int
    samples: float  # of one repetition
    seconds: float
    match_rate: Measured
    match_bound: float | None
    mse: Measured  # best of K
    mean_db: Measured
    decoder_mse: Measured  # each decoder's own, mean over the K
    decoder_mean_db: float
    residual_variance: float  # of the source given one decoder's side information
    side_information_mse: float
    side_information_mean_db: float
    side_information_decoder_mse: float
    wyner_ziv_mse: float  # bounds decoder_mse
    list_converse_mse: float  # bounds mse
    message_entropy: float | None
    bits: dict[str, float | None]  # by layer, per sample, towards each decoder

    @property
    def bits_per_index(self) -> float:
        return math.log2(self.l_max)


class Published(NamedTuple):
    """One cell of the published table."""

    sigma2: float
    mean_db: Measured


class Beside(NamedTuple):
    """A row beside the published cell of the same K and L_max."""

    row: Row
    published: Published

    @property
    def difference(self) -> float:
        """Measured less published, in dB."""
        return self.row.mean_db.value - self.published.mean_db.value

    @property
    def deviations(self) -> float:
        """The difference in combined standard errors."""
        return self.difference / math.hypot(self.row.mean_db.error, self.published.mean_db.error)


def decibels(power: float) -> float:
    """10 log10 of a power; of none at all, that of a very small one."""
    return 10 * math.log10(max(power, _LEAST))


def summarise(records: Sequence[Record]) -> list[Row]:
    """One row for all repetitions of the same settings, in the order of K, L_max and scheme.

    Records of the same settings but for the seed, and of the same search, if any, are repetitions; what each of them
    has found may differ. The error is the standard deviation over n repetitions, over sqrt(n); that of a single
    repetition is what the run itself gave.
    """
    return sorted((_row(repetitions) for repetitions in repeated(records)), key=lambda row: (
        row.decoders, row.l_max, row.scheme, row.packing, row.transport, row.minimised, row.parameter_value
    ))


def repeated(records: Sequence[Record]) -> list[list[Record]]:
    """The records, those of the same settings but for the seed, and of the same search, together."""
    found: dict[str, list[Record]] = {}
    for record in records:
        settings = {name: value for name, value in record["cell"]["settings"].items() if name != "seed"}
        tries = [{name: value for name, value in each.items() if name in PARAMETERS}
                 for each in record["result"].get("searched") or []]
        key = json.dumps([settings, minimised(record["result"]), tries], sort_keys=True)
        found.setdefault(key, []).append(record)
    return list(found.values())


def minimised(result: dict[str, Any]) -> str:
    """What the search for a run's parameters minimised; "" if there was none."""
    return "".join({name for each in result.get("searched") or [] for name in each} - {*PARAMETERS})


def transport_of(result: dict[str, Any]) -> str:
    """A run's transport, and of MQTT the quality of service."""
    qos = result.get("qos")
    return str(result["transport"]) if qos is None else f"{result['transport']}, QoS {qos}"


def _row(records: list[Record]) -> Row:
    results = [record["result"] for record in records]
    first = results[0]
    parameter = _parameter(first)
    residuals = [each["residual_variance"] for result in results for each in result["per_decoder"]]
    return Row(
        scheme=first["scheme"], decoders=first["decoders"], l_max=first["l_max"], packing=first["packing"],
        transport=transport_of(first), frame=first["frame"], parameter=parameter,
        parameter_value=Counter(result[parameter] for result in results).most_common(1)[0][0],
        minimised=minimised(first), repetitions=len(results),
        samples=float(np.mean([result["samples"] for result in results])),
        seconds=float(np.mean([record["timing"]["seconds"] for record in records])),
        match_rate=measured(results, "match_rate"),
        match_bound=mean([result["match_bound"] for result in results]),
        mse=measured(results, "mse"), mean_db=measured(results, "mean_db"),
        decoder_mse=measured(results, "decoder_mse"),
        decoder_mean_db=float(np.mean([result["decoder_mean_db"] for result in results])),
        residual_variance=float(np.mean(residuals)),
        **{name: float(np.mean([result[name] for result in results])) for name in (
            "side_information_mse", "side_information_mean_db", "side_information_decoder_mse"
        )},
        **{name: float(np.mean([result["limits"][name] for result in results])) for name in (
            "wyner_ziv_mse", "list_converse_mse"
        )},
        message_entropy=mean([result["message_entropy"] for result in results]),
        bits={layer: mean([result["bits_per_sample"][layer] for result in results])
              for layer in first["bits_per_sample"]},
    )


def _parameter(result: dict[str, Any]) -> str:
    return "sigma2" if result["step"] is None else "step"


def measured(results: list[dict[str, Any]], name: str) -> Measured:
    """The mean of this number over repetitions, with its error."""
    values = np.array([result[name] for result in results])
    if values.size == 1:
        return Measured(float(values[0]), results[0][f"{name}_error"])
    return Measured(float(values.mean()), float(values.std(ddof=1) / math.sqrt(values.size)))


def mean(values: list[float | None]) -> float | None:
    """Of values that all results have; None, if one has none."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if len(known) == len(values) else None


def beside_published(rows: Sequence[Row]) -> list[Beside]:
    """The rows of scheme gls on the published source, each beside the published cell of its K and L_max."""
    cells = published()
    return [Beside(row, cells[row.decoders, row.l_max]) for row in rows
            if row.scheme == "gls" and (row.decoders, row.l_max) in cells and on_published_source(row)]


def on_published_source(row: Row) -> bool:
    """Whether the side information is as good as in the published runs."""
    return math.isclose(row.residual_variance, _PUBLISHED_RESIDUAL, rel_tol=1e-9)


def published() -> dict[tuple[int, int], Published]:
    """The published table of scheme gls, by (K, L_max): mean dB, best of K."""
    _, *lines = (files("glsnet.lab") / "published" / "gaussian_table10.csv").read_text("utf-8").splitlines()
    return {
        (int(cell["K"]), int(cell["L_max"])): Published(
            float(cell["sigma2_W_given_A"]),
            Measured(float(cell["distortion_mean_dB"]), float(cell["standard_error_dB"])),
        )
        for cell in csv.DictReader(lines)
    }
