"""`glsnet generate`: text from a target server, or from models in this process."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.console import Console

from glsnet.errors import CallerError
from glsnet.generation import MAX_AHEAD, Asked, Finished, Piece
from glsnet.lab.speculated import Pair, direct
from glsnet.lab.terminal import security
from glsnet.language import models
from glsnet.randomness import seed_from_integer
from glsnet.transport import rpc, speculating
from glsnet.verification import MAX_DRAFTS, MAX_LENGTH, SCHEMES

STREAMS = 4  # K in this process, unless asked for

TargetAddress = Annotated[str | None, typer.Option("--target", metavar="HOST:PORT", help="A target server that runs "
                                                   "already, with its draft servers. Default: all in this process.")]
TargetModel = Annotated[str | None, typer.Option(help="Without --target: the target's model. Default: "
                                                 "embedded-target.")]
DraftModel = Annotated[str | None, typer.Option(help="Without --target: the drafters' model. Default: "
                                                "embedded-drafter.")]


def generate_text(
    context: typer.Context,
    prompt: Annotated[str, typer.Option(help="The text to go on from, \\n being a new line; - reads it from standard "
                                      "input, as it is.")],
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same text.")] = 0,
    max_tokens: Annotated[int, typer.Option(min=1, help="To generate at most.")] = 128,
    temperature: Annotated[float | None, typer.Option(help="Of the target; 0 is greedy. Default: 1.")] = None,
    top_k: Annotated[int | None, typer.Option(min=0, help="Keep so many of the most likely; 0 is all. Default: 0."
                                                   )] = None,
    top_p: Annotated[float | None, typer.Option(help="Keep the most likely with this mass. Default: 1.")] = None,
    stop: Annotated[list[str] | None, typer.Option(help="A text to end before; may be given again.")] = None,
    scheme: Annotated[str | None, typer.Option(help=f"One of {', '.join(SCHEMES)}. Default: gls.")] = None,
    drafts: Annotated[int | None, typer.Option(min=1, max=MAX_DRAFTS, help="K. Default: the target's streams, or "
                                               f"{STREAMS} in this process; 1 for schemes of one draft.")] = None,
    length: Annotated[int | None, typer.Option(min=0, max=MAX_LENGTH, help="L, tokens of a draft. Default: 4.")] = None,
    draft_temperature: Annotated[list[float] | None, typer.Option(help="A draft's own temperature; once for each of "
                                                                  "the K drafts.")] = None,
    ahead: Annotated[int, typer.Option(min=0, max=MAX_AHEAD, help="Blocks that drafters draft on their own, while the "
                                       "verdict on the last travels.")] = 0,
    target: TargetAddress = None,
    target_model: TargetModel = None,
    draft_model: DraftModel = None,
    shared_seed: Annotated[int, typer.Option(envvar="GLSNET_SEED", help="Without --target: the seed that target and "
                                             "drafters share, as servers have it.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object: text, tokens, for each how many "
                                          "drafts had proposed it, and what it took.")] = False,
) -> None:
    """Generate text by speculative decoding; it is printed as it comes, and what it took on standard error.

    - `glsnet generate --prompt "Question: Tom has 3 apples and buys 4 more. How many has he?\\nAnswer:" --seed 7`
    - `glsnet generate --prompt "ROMEO:" --scheme gls-strong --drafts 8 --length 6 --json`
    - `glsnet generate --prompt - --target 10.0.0.5:7000 --temperature 0.7 < prompt.txt`

    With gls-strong the text depends on prompt, seeds, K and the target's model alone, whatever drafts.
    """
    text = sys.stdin.read() if prompt == "-" else prompt.replace("\\n", "\n")
    asked = Asked(text, max_tokens, seed, temperature, top_k, top_p, tuple(stop or ()), scheme, drafts, length,
                  tuple(draft_temperature or ()), ahead=ahead)
    if target is not None:
        rpc.check_address(target)
        if target_model is not None or draft_model is not None:
            raise CallerError("--target: expected no models with it, which servers have of their own; leave one out")
        replies: AsyncIterator[Piece | Finished] = speculating.generate(target, asked, security=security(context))
    else:
        streams = asked.drafts or STREAMS
        asked.request(streams)  # before anything is loaded
        pair = Pair(models.load(target_model or "embedded-target"), models.load(draft_model or "embedded-drafter"))
        replies = direct(pair, seed_from_integer(shared_seed), streams)(asked)
    asyncio.run(_print(replies, as_json))


async def _print(replies: AsyncIterator[Piece | Finished], as_json: bool) -> None:
    pieces: list[Piece] = []
    async with aclosing(replies) as items:  # type: ignore[type-var]
        async for item in items:
            if isinstance(item, Piece):
                pieces.append(item)
                if not as_json:
                    print(item.text, end="", flush=True)
            elif as_json:
                print(json.dumps(summary(pieces, item)))
            else:
                print()
                Console(stderr=True, highlight=False).print(_in_words(item), style="dim")


def summary(pieces: list[Piece], finished: Finished) -> dict[str, Any]:
    """All there is to say of a request, ready for JSON."""
    return {
        "text": "".join(piece.text for piece in pieces),
        "tokens": [token for piece in pieces for token in piece.tokens],
        "agreed": [agreed for piece in pieces for agreed in piece.agreed],
        "block_efficiency": finished.block_efficiency,
        "metrics": asdict(finished),
    }


def _in_words(finished: Finished) -> str:
    parts = [f"{finished.tokens} tokens in {finished.blocks} blocks (block efficiency "
             f"{finished.block_efficiency:.2f}), {finished.tokens / finished.seconds:.0f} tokens/s"]
    if any(finished.drafted):
        rates = (f"{accepted / drafted:.2f}" for drafted, accepted in zip(finished.drafted, finished.accepted,
                                                                          strict=True) if drafted)
        parts.append(f"accepted by depth {' '.join(rates)}")
        sent = finished.up.stream or finished.up.protobuf
        parts.append(f"{8 * sent / finished.tokens:.0f} bits a token from the drafters "
                     f"({finished.information_up / finished.tokens:.0f} of information)")
    return "; ".join([*parts, f"ended by {finished.reason}"])
