"""Scenarios: a TOML file that names many runs, and the cells that it expands to.

    title = "..."                  source = "gaussian", or "images"
    decoders = [1, 2]              any setting of GaussianRun, or ImagesRun; a list is a sweep, several their product
    repetitions = 10               repetition r has the seed `seed` + r
    search = { sigma2 = [...], samples = 10_000, minimise = "mean_db" }

    [[runs]]                       any number of these: each overrides the above and is expanded by itself
    l_max = [2, 4]
"""

import hashlib
import itertools
import json
import math
import tomllib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, Strict, StrictStr, ValidationError, model_validator

from glsnet.errors import CallerError
from glsnet.faults import Fault, faults_of
from glsnet.lab.settings import GaussianRun, ImagesRun

MAX_CELLS = 100_000

Model = TypeVar("Model", bound=BaseModel)


class Search(BaseModel):
    """Which values of parameters to try, on how many samples, and which number of the result is to be least."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    samples: Annotated[int, Strict()] = Field(ge=2, le=2**32)
    minimise: str

    @property
    def lists(self) -> dict[str, tuple[float, ...]]:
        """The values of each parameter that is searched."""
        return {name: value for name, value in self if isinstance(value, tuple) and value}

    def tries(self, l_max: int) -> list[dict[str, float]]:
        """Every combination of the values, but for candidates that are no multiple of l_max."""
        tries = [dict(zip(self.lists, values, strict=True)) for values in itertools.product(*self.lists.values())]
        return [each for each in tries if each.get("candidates", 0) % l_max == 0]


class GaussianSearch(Search):
    """Over sigma2 or step, on samples of its own."""

    sigma2: tuple[Annotated[float, Strict()], ...] = ()
    step: tuple[Annotated[float, Strict()], ...] = ()
    minimise: Literal["mean_db", "mse", "decoder_mse"]

    @model_validator(mode="after")
    def _one_parameter(self) -> Self:
        if len(self.lists) != 1:
            raise ValueError("a list of values of just one parameter, sigma2 or step")
        return self


class ImagesSearch(Search):
    """Over candidates, beta or both, on the first of the images held out when training."""

    candidates: tuple[Annotated[int, Strict()], ...] = ()
    beta: tuple[Annotated[float, Strict()], ...] = ()
    minimise: Literal["mse", "decoder_mse"]

    @model_validator(mode="after")
    def _any_parameter(self) -> Self:
        if not self.lists:
            raise ValueError("a list of values of candidates, of beta, or of each")
        return self


@dataclass(frozen=True)
class Scenario:
    """A scenario that `load` has found right: the name of its file, and what stands in it."""

    file: str
    document: dict[str, Any]

    @property
    def source(self) -> str:
        """What is compressed: gaussian or images."""
        return str(self.document["source"])

    @property
    def digest(self) -> str:
        """SHA-256 over what stands in the file; comments, spaces and the order of keys do not count."""
        return hashlib.sha256(json.dumps(self.document, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Cell:
    """One run of a scenario. Its number counts from 0 in the order of the file."""

    number: int
    repetition: int
    settings: GaussianRun | ImagesRun  # with a search, its parameters are at the first of the values to try
    search: Search | None


class _Once(BaseModel):
    """What stands in a scenario once."""

    title: StrictStr
    source: Literal["gaussian", "images"]
    runs: tuple[dict[str, Any], ...] = ({},)


class _Repeated(BaseModel):
    """What a run has besides settings and a search."""

    repetitions: Annotated[int, Strict()] = Field(1, ge=1)


class _Source(NamedTuple):
    """What runs of a source are made of."""

    settings: type[GaussianRun] | type[ImagesRun]
    search: type[Search]

    @property
    def keys(self) -> list[str]:
        """Those of a run, and above the runs for all of them; not what is excluded, which is a machine's own."""
        settings = (name for name, field in self.settings.model_fields.items() if not field.exclude)
        return [*settings, *_Repeated.model_fields, "search"]


_SOURCES = {"gaussian": _Source(GaussianRun, GaussianSearch), "images": _Source(ImagesRun, ImagesSearch)}


@dataclass(frozen=True)
class _Run:
    """One run of a scenario, each of its settings as the list of its values; and where in the file each key stands."""

    source: _Source
    repetitions: int
    search: Search | None
    axes: dict[str, list[Any]]
    place: Callable[[str], str]

    @property
    def cells(self) -> int:
        return self.repetitions * math.prod(map(len, self.axes.values()))


def load(name_or_path: str, overrides: Sequence[str] = ()) -> Scenario:
    """Read a scenario, and expand it once to see that it is right.

    Args:
        name_or_path: a path, which ends in .toml, or the name of a scenario that comes with glsnet.
        overrides: `key=value` texts, as after --set, that take the place of what the file says of that key, above and
            in every run. A value is TOML, or else text as it stands.

    Raises:
        CallerError: there is no such scenario, it cannot be read, is no TOML, or is not what a scenario has to be; the
            text names the file, the run and the key.
    """
    file, text = _text(name_or_path)
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise CallerError(f"{file}: expected TOML, got: {error}") from error
    if overrides:
        file, document = f"{file} with --set", _overridden(document, overrides)
    scenario = Scenario(file, document)
    cells(scenario)
    return scenario


def cells(scenario: Scenario) -> list[Cell]:
    """Every cell, in order: the runs as in the file; in each, the product of its lists in the order of the
    settings of its source; repetitions innermost.

    Raises:
        CallerError: as `load`.
    """
    made: list[Cell] = []
    for run in _runs(scenario):
        for values in itertools.product(*run.axes.values()):
            settings = _settings(run, dict(zip(run.axes, values, strict=True)))
            for repetition in range(run.repetitions):
                seeded = settings.model_copy(update={"seed": settings.seed + repetition})
                made.append(Cell(len(made), repetition, seeded, run.search))
    first: dict[object, int] = {}
    for cell in made:
        twin = first.setdefault((cell.settings, cell.search), cell.number)
        if twin != cell.number:
            raise CallerError(f"{scenario.file}: expected cells that differ, got cells {twin} and {cell.number} with "
                              f"the same settings ({described(cell.settings)}); leave one of them out")
    return made


def described(settings: GaussianRun | ImagesRun) -> str:
    """The settings as `key=value`, without those that are not set."""
    values = settings.model_dump(mode="json").items()
    return " ".join(f"{key}={value}" for key, value in values if value not in (None, []))


def _text(name_or_path: str) -> tuple[str, str]:
    """The name of the file in errors, and the text in it."""
    if not name_or_path.endswith(".toml"):
        built_in = sorted(each.name for each in files("glsnet.scenarios").iterdir() if each.name.endswith(".toml"))
        if f"{name_or_path}.toml" not in built_in:
            names = ", ".join(name.removesuffix(".toml") for name in built_in)
            raise CallerError(f"scenario: expected a path that ends in .toml, or one of {names}; got {name_or_path!r}")
        name = f"{name_or_path}.toml"
        return name, (files("glsnet.scenarios") / name).read_text("utf-8")
    try:
        return name_or_path, Path(name_or_path).read_text("utf-8")
    except OSError as error:
        raise CallerError(f"{name_or_path}: expected a scenario that can be read, got: {error.strerror}; check the "
                          "path and its permissions") from error
    except UnicodeDecodeError as error:
        raise CallerError(f"{name_or_path}: expected UTF-8 text, got byte 0x{error.object[error.start]:02x}; save the "
                          "file as UTF-8") from error


def _overridden(document: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """What stands in a file, with `key=value` texts above the runs and their keys in none of these."""
    values: dict[str, Any] = {}
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals:
            raise CallerError(f"--set: expected key=value, got {override!r}; the keys are those of the scenario")
        try:
            values[key.strip()] = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            values[key.strip()] = text.strip()
    kept = document | values
    if isinstance(runs := kept.get("runs"), list):
        kept["runs"] = [{key: value for key, value in run.items() if key not in values} if isinstance(run, dict)
                        else run for run in runs]
    return kept


def _runs(scenario: Scenario) -> list[_Run]:
    document = scenario.document

    def top(key: str) -> str:
        return f"{scenario.file}: {key}"

    once = _validated(_Once, {key: value for key, value in document.items() if key in _Once.model_fields}, top)
    source = _SOURCES[once.source]
    _check_keys(document, (*_Once.model_fields, *source.keys), top)
    above = {key: value for key, value in document.items() if key in source.keys}
    runs = [_run(source, own, above, top, f"{scenario.file}: runs[{i}]." if "runs" in document else top(""))
            for i, own in enumerate(once.runs)]
    count = sum(run.cells for run in runs)
    if not 0 < count <= MAX_CELLS:
        advice = "shorten its lists, or make several scenarios of it" if count else "give it at least one of [[runs]]"
        raise CallerError(f"{scenario.file}: expected 1 to {MAX_CELLS:,} cells, got {count:,}; {advice}")
    return runs


def _run(source: _Source, own: dict[str, Any], above: dict[str, Any], top: Callable[[str], str], prefix: str) -> _Run:
    """A run from its own keys and those above it."""
    def place(key: str) -> str:
        return top(key) if key.partition(".")[0] in above.keys() - own.keys() else f"{prefix}{key}"

    _check_keys(own, source.keys, place)
    merged = above | own
    repeated = _validated(_Repeated, {key: merged[key] for key in _Repeated.model_fields if key in merged}, place)
    search = None
    if "search" in merged:
        search = _validated(source.search, merged["search"], lambda key: place(f"search.{key}".removesuffix(".")))
    axes = {key: merged[key] if isinstance(merged[key], list) and key != "faults" else [merged[key]]
            for key in source.settings.model_fields if key in merged}
    if "faults" in axes:  # a list that is no sweep
        axes["faults"] = [_faults(axes["faults"][0], place("faults"))]
    for key, values in axes.items():
        if not values:
            raise CallerError(f"{place(key)}: expected at least one value, got []; give it one, or leave the key out")
        if search and key in search.lists:
            raise CallerError(f"{place(key)}: expected it to be set or searched, got both; leave it out here or in "
                              f"{place('search')}")
    return _Run(source, repeated.repetitions, search, axes, place)


def _faults(tables: Any, place: str) -> tuple[Fault, ...]:
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise CallerError(f"{place}: expected tables, [[faults]], got {tables!r}")
    try:
        return faults_of(tables)
    except CallerError as error:
        raise CallerError(f"{place.removesuffix('faults')}{error}") from None


def _settings(run: _Run, values: dict[str, Any]) -> GaussianRun | ImagesRun:
    """The settings of a cell but for the repetition's seed; every combination of a search is tried on them."""
    settings = _validated(run.source.settings, values, run.place, strict=True)
    search = run.search
    if search is None:
        return settings
    if isinstance(settings, ImagesRun) and settings.split == "validation":
        raise CallerError(f"{run.place('split')}: expected test with a search, which looks at images of validation, "
                          "got validation; leave out one of the two")

    def place(key: str) -> str:
        return run.place(f"search.{key}" if key in search.lists else key)

    tried = [_validated(run.source.settings, values | each, place, strict=True)
             for each in search.tries(settings.l_max)]
    if not tried:
        raise CallerError(f"{place('candidates')}: expected a multiple of l_max, which is {settings.l_max}, got "
                          f"{list(search.lists['candidates'])}; add one")
    return tried[0]


def _check_keys(table: Iterable[str], known: Sequence[str], place: Callable[[str], str]) -> None:
    for key in table:
        if key not in known:
            raise CallerError(f"{place(key)}: no such key; the keys are {', '.join(known)}")


def _validated(model: type[Model], values: Any, place: Callable[[str], str], strict: bool | None = None
               ) -> Model:
    """The values as a model; strictly, for a number in quotes is a mistake here, as it is not after --set."""
    try:
        return model.model_validate(values, strict=strict)
    except ValidationError as error:
        first = error.errors()[0]
        key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"]).removeprefix(".")
        match first["type"]:
            case "extra_forbidden":
                problem = f"no such key; the keys are {', '.join(model.model_fields)}"
            case "missing":
                problem = "expected it, got none; add it to the file"
            case _:
                wanted = first["msg"].removeprefix("Value error, ").removeprefix("Input ").removeprefix("should be ")
                problem = f"expected {wanted}, got {first['input']!r}"
        raise CallerError(f"{place(key)}: {problem}") from None
