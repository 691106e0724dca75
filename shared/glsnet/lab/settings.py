"""What a run is: every setting with its default, its range and its meaning."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from glsnet.codes import DEFAULT_SIGMA2, LEAST_STEP, MOST_STEP
from glsnet.errors import CallerError
from glsnet.faults import Fault
from glsnet.frames import MAX_COUNT
from glsnet.generation import MAX_AHEAD
from glsnet.language.sampling import MAX_TEMPERATURE
from glsnet.randomness import MAX_BLOCKS
from glsnet.verification import MAX_DRAFTS, MAX_LENGTH


class Run(BaseModel):
    """Settings of any run, from text."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @classmethod
    def parsed(cls, assignments: Iterable[str]) -> Self:
        """From `key=value` texts, as after --set; the last one of a key counts.

        Raises:
            CallerError: a text is no assignment, a key is unknown or a value out of range; the text names the key.
        """
        values: dict[str, Any] = {}
        for assignment in assignments:
            key, equals, value = assignment.partition("=")
            if not equals:
                raise CallerError(f"--set: expected key=value, got {assignment!r}; the keys are {_keys(cls)}")
            values[key.strip()] = value.strip()
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(map(str, first["loc"]))
            if first["type"] == "extra_forbidden":
                raise CallerError(f"{key}: no such setting; the keys are {_keys(cls)}") from None
            wanted = first["msg"].removeprefix("Input ").removeprefix("should be ")
            raise CallerError(f"{key}: expected {wanted}, got {first['input']!r}") from None


class GaussianRun(Run):
    """Compression of a Gaussian source with side information at every decoder."""

    scheme: Literal["gls", "baseline", "posterior-mean", "posterior-list", "nested", "trellis", "split",
                    "split-trellis"] = Field(
        "gls", description="gls and baseline (all decoders share one stream) are as published; posterior-mean and "
        "posterior-list are gls with decoders that use all they know; nested, trellis, split and split-trellis are "
        "quantisers (see glsnet.codes)"
    )
    decoders: int = Field(4, ge=1, le=1000, description="K, the number of decoders")
    l_max: int = Field(8, ge=1, le=MAX_BLOCKS, description="number of message values; an index is log2 of it in bits")
    sigma2: float = Field(
        DEFAULT_SIGMA2, ge=1e-12, le=1e6,
        description="of races (gls, baseline, posterior-...): variance of the codeword given the sample, as a share of "
        "the source's"
    )
    step: float | None = Field(
        None, ge=LEAST_STEP, le=MOST_STEP, description="of quantisers: width of a cell, or of a part of one, in "
        "standard deviations of the source; default: one that suits K and l_max"
    )
    packing: Literal["fixed", "entropy"] = Field(
        "fixed", description="fixed width, or entropy: messages of races coded with their chances given the seed"
    )
    samples: int = Field(50_000, ge=2, le=2**32, description="how many samples; of a file, the first so many")
    seed: int = Field(1, description="the seed that all parties share; samples are drawn from it, too")
    transport: Literal["grpc", "mqtt", "direct", "simulator"] = Field(
        "grpc", description="grpc; mqtt: by a broker; direct: in one process, no network; or simulator: in virtual time"
    )
    qos: int = Field(1, ge=0, le=2, description="of mqtt: the quality of service of all messages")
    patience: float = Field(30.0, gt=0, description="seconds after which a silent decoder is not waited for")
    every: float = Field(0.0, ge=0, description="seconds between one frame and the next; 0: as fast as they go")
    faults: tuple[Fault, ...] = Field((), description="what goes wrong, when: [[faults]] of a scenario, or --faults")
    frame: int = Field(4096, ge=1, le=MAX_COUNT, description="samples in one frame")
    mean: float | None = Field(None, description="mean of the source; default 0, or fitted to the file")
    variance: float | None = Field(None, gt=0, description="variance of the source; default 1, or fitted to the file")
    noise_variance: float | None = Field(
        None, ge=0, description="variance of t - a; default 0.5, or a line fitted to the file for each decoder"
    )


class CouplingRun(Run):
    """Coupled draws from pairs of distributions, by Alice (or K of her) and Bob."""

    scheme: Literal["gumbel", "minhash", "gls", "equality-check", "low-communication", "whole-distribution"] = Field(
        "gumbel", description="gumbel, minhash, gls or equality-check send nothing; low-communication (Protocol 4) and "
        "whole-distribution (Protocol 1) talk"
    )
    decoders: int = Field(1, ge=1, le=1000, description="K, the number of Alices; above 1 for gls and equality-check")
    epsilon: float | None = Field(
        None, gt=0, le=1, description="what may be lost of 1 - D, for low-communication only; default there 0.1"
    )
    rounds: int = Field(1000, ge=1, le=2**26, description="samples for each pair of distributions")
    pairs: int = Field(8, ge=1, le=10_000, description="number of pairs; of a file, the first so many, default all")
    seed: int = Field(1, description="the seed that all parties share; the choice of pairs depends on it, too")
    transport: Literal["grpc", "direct"] = Field("grpc", description="grpc, or direct: in one process, no network")
    frame: int = Field(1000, ge=1, le=MAX_COUNT, description="samples in one batch, which share their frames")


class ImagesRun(Run):
    """Compression of the right halves of images, with a crop of the left half at every decoder."""

    scheme: Literal["gls", "baseline", "wyner-ziv", "wyner-ziv-list", "vq"] = Field(
        "gls", description="gls and baseline (all decoders share one stream) are as published; wyner-ziv is a learned "
        "quantiser whose decoders use their crops, wyner-ziv-list one whose K decoders share a message between them, "
        "vq k-means alone, which uses no crop"
    )
    decoders: int = Field(4, ge=1, le=1000, description="K, the number of decoders")
    l_max: int = Field(16, ge=1, le=MAX_BLOCKS, description="number of message values; an index is log2 of it in bits")
    candidates: int = Field(128, ge=1, le=1 << 20, description="of gls and baseline: N, the codewords of an image; a "
                            "multiple of l_max")
    beta: float = Field(0.35, gt=0, description="of gls and baseline: which beta-VAE of the model, by its beta")
    dataset: Literal["digits", "mnist", "cifar10", "folder"] = Field(
        "digits", description="digits come with scikit-learn; mnist and cifar10 are read by torchvision, in --data or "
        "downloaded; folder is --data itself: DIR/CLASS/*.png, or DIR/train and DIR/test with such folders"
    )
    model: str | None = Field(None, min_length=1, description="digits or mnist, which come with glsnet, or a file of "
                              "`glsnet train images`; default: that of the data set")
    samples: int | None = Field(None, ge=1, le=2**32, description="how many images; default: all of the split")
    split: Literal["test", "validation"] = Field("test", description="validation: those held out when training")
    shown: int = Field(8, ge=0, le=1000, description="of so many images, from the first, the result has the pixels")
    seed: int = Field(1, description="the seed that all parties share; crops are drawn from it, too")
    transport: Literal["grpc", "mqtt", "direct", "simulator"] = Field(
        "grpc", description="grpc; mqtt: by a broker; direct: in one process, no network; or simulator: in virtual time"
    )
    qos: int = Field(1, ge=0, le=2, description="of mqtt: the quality of service of all messages")
    patience: float = Field(30.0, gt=0, description="seconds after which a silent decoder is not waited for")
    every: float = Field(0.0, ge=0, description="seconds between one frame and the next; 0: as fast as they go")
    faults: tuple[Fault, ...] = Field((), description="what goes wrong, when: [[faults]] of a scenario, or --faults")
    frame: int = Field(256, ge=1, le=MAX_COUNT, description="images in one frame")
    data: Path | None = Field(None, exclude=True, description="as --data; no part of what is recorded")


def _split(value: object) -> object:
    """Text with commas, as it comes after --set, as a list."""
    return [each.strip() for each in value.split(",")] if isinstance(value, str) else value


_Scheme = Literal["gls", "gls-strong", "daliri", "equality-check", "leviathan", "specinfer", "kseq",
                  "block-verification", "none"]


class SpeculationRun(Run):
    """Speculative decoding over a file of prompts."""

    experiment: Literal["schemes", "diverse", "matching", "consistency"] = Field(
        "schemes", description="schemes: each scheme and K; diverse: two drafts of different temperatures; matching: "
        "rates of one token beside theory, in this process; consistency: texts when the drafter's temperature changes"
    )
    target_model: str = Field("embedded-target", min_length=1, description="of the target that is started here: a "
                              "name, a folder, or a model on Hugging Face")
    draft_model: str = Field("embedded-drafter", min_length=1, description="of the draft server that is started here; "
                             "its vocabulary must be the target's")
    schemes: Annotated[tuple[_Scheme, ...] | None, BeforeValidator(_split)] = Field(
        None, min_length=1, description="with commas; default: those that the experiment is about (see "
        "glsnet.verification)"
    )
    drafts: Annotated[tuple[Annotated[int, Field(ge=1, le=MAX_DRAFTS)], ...] | None, BeforeValidator(_split)] = Field(
        None, min_length=1, description="values of K, with commas; default 1,2,4,8, for diverse 2, for consistency 4"
    )
    length: int | None = Field(None, ge=1, le=MAX_LENGTH, description="L, tokens of each draft in a block; default 4, "
                               "for diverse 5")
    prompts: int = Field(50, ge=1, le=10**6, description="how many prompts: the first so many, or all if they are "
                         "fewer and this is not set")
    max_tokens: int = Field(64, ge=1, le=2**20, description="to generate for each prompt, at most")
    temperature: float | None = Field(None, ge=0, le=MAX_TEMPERATURE, description="of the target, and of drafters "
                                      "unless the experiment sets theirs; 0 is greedy; default 1, for diverse 2")
    top_k: int = Field(0, ge=0, description="only so many of the likeliest tokens; 0 is all")
    top_p: float = Field(1.0, gt=0, le=1, description="only the fewest of the likeliest tokens with this probability")
    contexts: int = Field(150, ge=2, le=10**6, description="of matching: how many, spread over the prompts' texts")
    rounds: int = Field(400, ge=1, le=2**20, description="of matching: draws for each context and K")
    seed: int = Field(1, description="the seed that target and drafters share")
    transport: Literal["grpc", "direct"] = Field("grpc", description="grpc, or direct: in one process, no network")


_Seconds = Annotated[float, Field(ge=0)]
_Counts = Annotated[tuple[Annotated[int, Field(ge=1)], ...], BeforeValidator(_split)]


class LatencyRun(Run):
    """Speculation and compression in virtual time, as a network delays them."""

    verify: float = Field(0.05, gt=0, description="seconds of a forward pass at the target")
    draft: float = Field(0.005, ge=0, description="seconds of a forward pass at a draft server")
    noise: float = Field(0.7, ge=0, description="how much a drafter's logits differ from the target's; 0: not at all")
    scheme: Literal["gls", "gls-strong", "equality-check"] = Field("gls", description="of verification; without ratios")
    length: int = Field(4, ge=1, le=MAX_LENGTH, description="L, where it is not the axis")
    drafts: int = Field(1, ge=1, le=MAX_DRAFTS, description="K, where it is not the axis; a draft server for each")
    rtt: float = Field(0.05, ge=0, description="round trip, where it is not the axis, seconds")
    rtts: Annotated[tuple[_Seconds, ...], BeforeValidator(_split)] = Field(
        (0.0, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2), min_length=2, description="round trips, with commas")
    aheads: Annotated[tuple[Annotated[int, Field(ge=0, le=MAX_AHEAD)], ...], BeforeValidator(_split)] = Field(
        (0, 1, 2, 4), min_length=1, description="blocks that drafters draft ahead, with commas")
    lengths: _Counts = Field((1, 2, 4, 8), min_length=1, description="values of L, with commas")
    lists: _Counts = Field((1, 2, 4), min_length=1, description="values of K, with commas")
    rates: Annotated[tuple[Annotated[float, Field(gt=0)], ...], BeforeValidator(_split)] = Field(
        (8_000.0, 32_000.0, 125_000.0), min_length=1, description="bytes per second of a drafter's link, with commas")
    tokens: int = Field(60, ge=2, le=2000, description="of each request")
    requests: int = Field(4, ge=1, le=1000, description="for each point")
    clients: _Counts = Field((1, 2, 4, 8, 16, 32, 64), min_length=1, description="served at once, with commas")
    frames: _Counts = Field((1, 4, 16, 64, 256, 1024, 4096), min_length=1,
                            description="samples in a frame, with commas")
    decoders: int = Field(4, ge=1, le=1000, description="of compression: K")
    samples: int = Field(2000, ge=16, le=10**7, description="of compression: how many")
    arrivals: float = Field(1000.0, gt=0, description="of compression: samples per second")
    link: float = Field(125_000.0, gt=0, description="of compression: bytes per second of a decoder's link")
    encode: float = Field(1e-5, ge=0, description="of compression: seconds that a sample takes to encode")
    decode: float = Field(2e-6, ge=0, description="and to decode")
    blocks: int = Field(6, ge=1, le=1000, description="of a request that the timeline shows")
    seed: int = Field(1, description="of everything")


def _keys(model: type[BaseModel]) -> str:
    return ", ".join(model.model_fields)
