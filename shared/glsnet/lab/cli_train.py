"""`glsnet train`: the models that come with glsnet, made again."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from glsnet.errors import CallerError
from glsnet.lab.terminal import interruptible

train_app = typer.Typer(no_args_is_help=True, rich_markup_mode="markdown", help="Train models that come with glsnet.")


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
