"""Prompts to generate from: those of a file, or word problems that come with glsnet."""

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from glsnet.errors import CallerError
from glsnet.language.models import prompt_of

QUESTIONS = (
    "Nora packs 6 boxes with 12 jars of honey each. On the way to the market 5 jars break. How many jars can she sell?",
    "A bus has 48 seats. At the first stop 19 people get on, and at the second stop 14 more get on and 6 get off. How "
    "many seats are free now?",
    "Ben reads 20 pages of a book every day from Monday to Friday, and twice as many on each of the two days of the "
    "weekend. How many pages does he read in three weeks?",
    "A baker sells rolls for $2 and cakes for $15. On Saturday he sells 40 rolls and 6 cakes. Flour and sugar cost him "
    "$55. How many dollars does he have left?",
    "Lucy has 3 times as many stamps as Omar. Omar has 8 stamps more than Ines, who has 17. How many stamps do the "
    "three of them have together?",
    "A tank holds 300 litres of water. It is one third full. A pump fills in 25 litres every minute. How many minutes "
    "does it take until the tank is full?",
    "Sam walks 3 miles to work and 3 miles back, five days a week. His shoes last for 360 miles. After how many weeks "
    "does he need new shoes?",
    "A class of 28 children goes to the zoo. A ticket costs $7 for a child and $11 for an adult, and there is one "
    "adult for every 7 children. How much do all the tickets cost?",
    "Mia has $90. She spends a third of it on a jacket and half of what is left on a pair of trousers. How many "
    "dollars does she still have?",
    "A farmer has 15 cows. Each of them gives 24 litres of milk a day. He keeps 10 litres for his family and sells the "
    "rest for $2 a litre. How much does he earn in a week?",
    "Tom is 4 years older than his sister. In 6 years the two of them will be 40 years old together. How old is Tom?",
    "A printer makes 18 pages a minute. It prints 45 copies of a report of 12 pages, and stops for 10 minutes to be "
    "filled with paper. How many minutes does it take in all?",
)


class Prompts(NamedTuple):
    """What they are called, and the texts to go on from."""

    name: str
    texts: list[str]


def built_in() -> Prompts:
    """Word problems in the manner of GSM8K."""
    return Prompts("built-in", [prompt_of(question) for question in QUESTIONS])


def read_prompts(path: Path) -> Prompts:
    """The prompts of a UTF-8 file, in its order; blank lines are skipped.

    .jsonl has an object on each line: with `question`, a word problem as in GSM8K, or else with `prompt`, as in
    HumanEval. .txt has a prompt on each line. Either may be compressed: .jsonl.gz.

    Raises:
        CallerError: the file cannot be read, is of another kind, or has a line that is none; the text names the line.
    """
    stem, _, kind = path.name.removesuffix(".gz").rpartition(".")
    if kind not in ("jsonl", "txt"):
        raise CallerError(f"{path}: expected a name that ends in .jsonl, .jsonl.gz, .txt or .txt.gz; rename the file")
    lines = _lines(path)
    texts = list(_objects(path, lines) if kind == "jsonl" else (line for line in lines if line.strip()))
    if not texts:
        raise CallerError(f"{path}: expected at least one prompt, got none; write one on a line")
    return Prompts(stem, texts)


def _lines(path: Path) -> list[str]:
    try:
        data = path.read_bytes()
        text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8-sig")
    except (OSError, EOFError, zlib.error) as error:
        raise CallerError(f"{path}: expected a file that can be read, got: {error}; check the path and the file"
                          ) from error
    except UnicodeDecodeError as error:
        raise CallerError(f"{path}: expected UTF-8 text, got byte 0x{error.object[error.start]:02x}; save the file as "
                          "UTF-8") from error
    return [line.removesuffix("\r") for line in text.split("\n")]


def _objects(path: Path, lines: list[str]) -> Iterator[str]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            item = json.loads(line)
        except ValueError as error:
            raise CallerError(f"{path}: line {number}: expected a JSON object, got {line[:40]!r}; write one on each "
                              "line") from error
        found = [item[name] for name in ("question", "prompt") if name in item] if isinstance(item, dict) else []
        if not found or not isinstance(found[0], str) or not found[0].strip():
            raise CallerError(f"{path}: line {number}: expected an object with a text as `question` or `prompt`, got "
                              f"{line[:40]!r}; name the field so")
        yield prompt_of(found[0]) if "question" in item else found[0]
