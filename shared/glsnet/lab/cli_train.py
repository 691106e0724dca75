"""`glsnet train`: the models that come with glsnet, made again."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, TypeVar

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from glsnet.errors import CallerError
from glsnet.images.model import BETAS, COUNTS
from glsnet.lab.cli_sweep import DATA, folder_for
from glsnet.lab.terminal import interruptible
from glsnet.vision import before_transformers

train_app = typer.Typer(no_args_is_help=True, rich_markup_mode="markdown", help="Train models that come with glsnet.")
Number = TypeVar("Number", int, float)

CROPS = {"digits": 3, "mnist": 7, "cifar10": 16}  # sides, in pixels; of others, half the width of a half


class Dataset(StrEnum):
    """Where images come from."""

    digits = "digits"
    mnist = "mnist"
    cifar10 = "cifar10"
    folder = "folder"


class Size(StrEnum):
    """The names of profiles; those are known to the training alone, which needs torch."""

    quick = "quick"
    full = "full"
    digits = "digits"
    mnist = "mnist"


def _listed(numbers: Sequence[float]) -> str:
    return ",".join(f"{number:g}" for number in numbers)


@train_app.command()
def language(
    text: Annotated[Path, typer.Option(metavar="DIR", help="Folder with gsm8k_train.jsonl, gsm8k_test.jsonl and "
                                       "tinyshakespeare.txt.")],
    output: Annotated[Path, typer.Option(metavar="DIR", help="Folder for target/ and drafter/; made if it is not "
                                         "there.")],
    seed: Annotated[int, typer.Option(help="Of weights and of the order of the text.")] = 1,
    steps: Annotated[int | None, typer.Option(min=1, help="Of each model. Default: as the embedded pair had.")] = None,
) -> None:
    """Train the embedded pair of language models: a larger one, the target, and a smaller one, the drafter.

    About three quarters of an hour on two cores. Each is saved as transformers saves models, once it is complete;
    use them with `--target-model DIR/target --draft-model DIR/drafter`.

    - `glsnet train language --text texts --output pair`
    """
    try:
        before_transformers()
        from glsnet.language import training
    except ImportError as error:
        raise CallerError(f"training: expected torch and transformers, got {error}; pip install 'glsnet[language]'"
                          ) from error
    texts, held_out = training.documents(text)
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
               TextColumn("{task.fields[loss]}"), TimeElapsedColumn())
    with Progress(*columns, console=console) as bar, interruptible(bar, "models that were complete are saved"):
        tokenizer = training.fit_tokenizer(texts)
        for name in training.SIZES:
            task = bar.add_task(name, total=None, loss="")

            def report(progress: training.Progress, task: TaskID = task) -> None:
                held = "" if progress.held_out is None else f", held out {progress.held_out:.3f}"
                bar.update(task, completed=progress.step, total=progress.steps,
                           loss=f"{progress.loss:.3f} nats a token{held}")

            model = training.train(name, tokenizer, texts, held_out, seed, report, steps)
            training.save(model, tokenizer, output / name)
            print(output / name)


@train_app.command()
def images(
    output: Annotated[Path, typer.Option(metavar="FILE", help="The model, a .safetensors file.")],
    dataset: Annotated[Dataset, typer.Option(help="digits come with scikit-learn; mnist and cifar10 as torchvision "
                                             "reads them; folder: your own images, in a folder for each class.")
                       ] = Dataset.digits,
    data: Annotated[Path | None, typer.Option(metavar="DIR", envvar=DATA, help="Where the images lie. Default, of "
                                              "mnist and cifar10: ~/.cache/glsnet, downloaded if not there.")] = None,
    profile: Annotated[Size, typer.Option(help="How large the networks are, and how long they are trained.")
                       ] = Size.quick,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Of weights, crops, noise and the order of images.")
                    ] = 1,
    device: Annotated[str, typer.Option(help="Where to train, as torch calls it: cpu, cuda, mps.")] = "cpu",
    crop: Annotated[int | None, typer.Option(min=1, help="Side in pixels of the square of the left half that a decoder "
                                             "sees. Default: 3 for digits, 7 for mnist, 16 for cifar10; for a folder "
                                             "a quarter of the images' width, at most their height.")] = None,
    latent: Annotated[int, typer.Option(min=1, help="Dimension of codewords.")] = 4,
    hidden: Annotated[int | None, typer.Option(min=1, help="Width of the networks. Default: the profile's, 256 for "
                                               "quick and 1024 for full.")] = None,
    betas: Annotated[str, typer.Option(metavar="B,B,...", help="What bits cost against squared error: an encoder, a "
                                       "decoder and an estimator for each.")] = _listed(BETAS),
    cells: Annotated[str, typer.Option(metavar="N,N,...", help="Numbers of cells, a quantiser for each: l_max of "
                                       "wyner-ziv, decoders times l_max of wyner-ziv-list; and 1, a crop alone.")
                     ] = _listed(COUNTS),
) -> None:
    """Train a model for `glsnet run images`: all networks of all its schemes, for images of one size.

    In stages: k-means of the right halves; for each beta a VAE, which encodes right halves and decodes them beside a
    crop, then the estimator that weighs codewords by a crop; last the quantisers that learn what a crop adds. One image
    in twenty is held out, and a stage ends early once it gets no better on those.

    quick is for a CPU: eight minutes on two cores for mnist, a minute for digits. full is for a GPU: networks
    four times as wide, and five to fifteen times as many epochs. digits and mnist are those of the models that come
    with glsnet.

    Kill it at any moment: the same command goes on from FILE.checkpoint, which is kept until FILE is complete, and ends
    with the same model on the same machine.

    - `glsnet train images --output digits.safetensors`
    - `glsnet train images --dataset mnist --data DIR --output mnist.safetensors`
    - `glsnet train images --dataset cifar10 --profile full --device cuda --output cifar.safetensors`
    - `glsnet train images --dataset folder --data DIR --crop 12 --cells 1,8,32 --output mine.safetensors`

    Use it with `glsnet run images --set model=FILE --set dataset=... --data DIR`. Parties that are started by hand need
    it, too: `--image-model FILE`.
    """
    costs, counts = _numbers("--betas", betas, float), _numbers("--cells", cells, int)
    if output.suffix != ".safetensors" or output.is_dir():
        raise CallerError(f"--output: expected a .safetensors file to write, got {output}; name one")
    try:
        from glsnet.images import pictures, training
    except ImportError as error:
        raise CallerError(f"training: expected torch, got {error}; pip install 'glsnet[images]'") from error
    size = training.PROFILES[profile]
    size = size if hidden is None else replace(size, hidden=hidden)
    checkpoint = output.with_name(f"{output.name}.checkpoint")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[loss]}"),
               TimeElapsedColumn())
    rows: dict[str, TaskID] = {}
    with (
        Progress(*columns, console=Console(stderr=True)) as bar,
        interruptible(bar, f"the same command goes on from {checkpoint}"),
    ):
        def row(name: str, completed: int, total: int, loss: str) -> None:
            if name not in rows:
                rows[name] = bar.add_task(name, loss="")
            bar.update(rows[name], completed=completed, total=total, loss=loss)

        def report(progress: training.Progress) -> None:
            before = progress.number - 1
            if before and "all stages" not in rows:
                epochs = f" and epoch {progress.epoch} of {progress.stage}" if progress.epoch else ""
                bar.console.print(f"resuming after stage {before} of {progress.stages}{epochs}", highlight=False)
            if progress.stage not in rows:
                for each in rows.values():
                    if each != rows.get("all stages"):
                        bar.stop_task(each)  # one may end before its last epoch
            row("all stages", before, progress.stages, "")
            loss = f"loss {progress.loss:.3f}, held out {progress.held_out:.3f}"
            row(progress.stage, progress.epoch, progress.epochs, "" if math.isnan(progress.held_out) else loss)

        found = pictures.load(dataset, folder_for(dataset, data),
                              lambda done, total: row("reading images", done, total, ""))
        height, width = found.train.shape[1:3]
        side = crop or CROPS.get(dataset) or max(1, min(width // 4, height))
        model = training.train(found, side, size, seed, checkpoint, report, costs, counts, latent, device)
        model.write(output)
        checkpoint.unlink()
        if "all stages" in rows:
            bar.update(rows["all stages"], completed=len(costs) * 2 + 2)
    print(output)


def _numbers(option: str, text: str, kind: Callable[[str], Number]) -> tuple[Number, ...]:
    try:
        return tuple(kind(each) for each in text.split(","))
    except ValueError:
        example = "1,4,8" if kind is int else "0.15,0.35"
        raise CallerError(f"{option}: expected numbers with commas between them, as in {example}, got {text!r}"
                          ) from None
