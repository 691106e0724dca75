from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Frame(_message.Message):
    __slots__ = ("join", "terms", "indices", "end", "ack", "refusal", "candidates", "darts", "verdicts", "everything", "drafts", "accepted", "wanted", "row", "prompt", "done", "spent", "lost", "check")
    JOIN_FIELD_NUMBER: _ClassVar[int]
    TERMS_FIELD_NUMBER: _ClassVar[int]
    INDICES_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    ACK_FIELD_NUMBER: _ClassVar[int]
    REFUSAL_FIELD_NUMBER: _ClassVar[int]
    CANDIDATES_FIELD_NUMBER: _ClassVar[int]
    DARTS_FIELD_NUMBER: _ClassVar[int]
    VERDICTS_FIELD_NUMBER: _ClassVar[int]
    EVERYTHING_FIELD_NUMBER: _ClassVar[int]
    DRAFTS_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    WANTED_FIELD_NUMBER: _ClassVar[int]
    ROW_FIELD_NUMBER: _ClassVar[int]
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    SPENT_FIELD_NUMBER: _ClassVar[int]
    LOST_FIELD_NUMBER: _ClassVar[int]
    CHECK_FIELD_NUMBER: _ClassVar[int]
    join: Join
    terms: Terms
    indices: Indices
    end: End
    ack: Ack
    refusal: Refusal
    candidates: Turn
    darts: Turn
    verdicts: Turn
    everything: Turn
    drafts: Tokens
    accepted: Tokens
    wanted: Wanted
    row: Row
    prompt: Prompt
    done: Done
    spent: Spent
    lost: Lost
    check: int
    def __init__(self, join: _Optional[_Union[Join, _Mapping]] = ..., terms: _Optional[_Union[Terms, _Mapping]] = ..., indices: _Optional[_Union[Indices, _Mapping]] = ..., end: _Optional[_Union[End, _Mapping]] = ..., ack: _Optional[_Union[Ack, _Mapping]] = ..., refusal: _Optional[_Union[Refusal, _Mapping]] = ..., candidates: _Optional[_Union[Turn, _Mapping]] = ..., darts: _Optional[_Union[Turn, _Mapping]] = ..., verdicts: _Optional[_Union[Turn, _Mapping]] = ..., everything: _Optional[_Union[Turn, _Mapping]] = ..., drafts: _Optional[_Union[Tokens, _Mapping]] = ..., accepted: _Optional[_Union[Tokens, _Mapping]] = ..., wanted: _Optional[_Union[Wanted, _Mapping]] = ..., row: _Optional[_Union[Row, _Mapping]] = ..., prompt: _Optional[_Union[Prompt, _Mapping]] = ..., done: _Optional[_Union[Done, _Mapping]] = ..., spent: _Optional[_Union[Spent, _Mapping]] = ..., lost: _Optional[_Union[Lost, _Mapping]] = ..., check: _Optional[int] = ...) -> None: ...

class Join(_message.Message):
    __slots__ = ("session", "stream", "expected", "streams", "next_round", "party", "attempt", "proof")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    STREAM_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_FIELD_NUMBER: _ClassVar[int]
    STREAMS_FIELD_NUMBER: _ClassVar[int]
    NEXT_ROUND_FIELD_NUMBER: _ClassVar[int]
    PARTY_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    PROOF_FIELD_NUMBER: _ClassVar[int]
    session: str
    stream: int
    expected: Terms
    streams: _containers.RepeatedScalarFieldContainer[int]
    next_round: int
    party: bytes
    attempt: int
    proof: bytes
    def __init__(self, session: _Optional[str] = ..., stream: _Optional[int] = ..., expected: _Optional[_Union[Terms, _Mapping]] = ..., streams: _Optional[_Iterable[int]] = ..., next_round: _Optional[int] = ..., party: _Optional[bytes] = ..., attempt: _Optional[int] = ..., proof: _Optional[bytes] = ...) -> None: ...

class Terms(_message.Message):
    __slots__ = ("protocol", "seed_digest", "scheme", "decoders", "l_max", "width", "normal", "stream", "finite", "packing", "vocabulary", "images")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    SEED_DIGEST_FIELD_NUMBER: _ClassVar[int]
    SCHEME_FIELD_NUMBER: _ClassVar[int]
    DECODERS_FIELD_NUMBER: _ClassVar[int]
    L_MAX_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    NORMAL_FIELD_NUMBER: _ClassVar[int]
    STREAM_FIELD_NUMBER: _ClassVar[int]
    FINITE_FIELD_NUMBER: _ClassVar[int]
    PACKING_FIELD_NUMBER: _ClassVar[int]
    VOCABULARY_FIELD_NUMBER: _ClassVar[int]
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    seed_digest: str
    scheme: str
    decoders: int
    l_max: int
    width: int
    normal: Normal
    stream: int
    finite: Finite
    packing: str
    vocabulary: str
    images: Images
    def __init__(self, protocol: _Optional[int] = ..., seed_digest: _Optional[str] = ..., scheme: _Optional[str] = ..., decoders: _Optional[int] = ..., l_max: _Optional[int] = ..., width: _Optional[int] = ..., normal: _Optional[_Union[Normal, _Mapping]] = ..., stream: _Optional[int] = ..., finite: _Optional[_Union[Finite, _Mapping]] = ..., packing: _Optional[str] = ..., vocabulary: _Optional[str] = ..., images: _Optional[_Union[Images, _Mapping]] = ...) -> None: ...

class Images(_message.Message):
    __slots__ = ("candidates", "beta", "prior", "model")
    CANDIDATES_FIELD_NUMBER: _ClassVar[int]
    BETA_FIELD_NUMBER: _ClassVar[int]
    PRIOR_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    candidates: int
    beta: float
    prior: str
    model: str
    def __init__(self, candidates: _Optional[int] = ..., beta: _Optional[float] = ..., prior: _Optional[str] = ..., model: _Optional[str] = ...) -> None: ...

class Finite(_message.Message):
    __slots__ = ("items", "epsilon")
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    EPSILON_FIELD_NUMBER: _ClassVar[int]
    items: int
    epsilon: float
    def __init__(self, items: _Optional[int] = ..., epsilon: _Optional[float] = ...) -> None: ...

class Normal(_message.Message):
    __slots__ = ("mean", "variance", "sigma2", "step")
    MEAN_FIELD_NUMBER: _ClassVar[int]
    VARIANCE_FIELD_NUMBER: _ClassVar[int]
    SIGMA2_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    mean: float
    variance: float
    sigma2: float
    step: float
    def __init__(self, mean: _Optional[float] = ..., variance: _Optional[float] = ..., sigma2: _Optional[float] = ..., step: _Optional[float] = ...) -> None: ...

class Indices(_message.Message):
    __slots__ = ("first_round", "count", "packed", "checksum")
    FIRST_ROUND_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    PACKED_FIELD_NUMBER: _ClassVar[int]
    CHECKSUM_FIELD_NUMBER: _ClassVar[int]
    first_round: int
    count: int
    packed: bytes
    checksum: int
    def __init__(self, first_round: _Optional[int] = ..., count: _Optional[int] = ..., packed: _Optional[bytes] = ..., checksum: _Optional[int] = ...) -> None: ...

class Turn(_message.Message):
    __slots__ = ("first_round", "count", "packed", "checksum")
    FIRST_ROUND_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    PACKED_FIELD_NUMBER: _ClassVar[int]
    CHECKSUM_FIELD_NUMBER: _ClassVar[int]
    first_round: int
    count: int
    packed: bytes
    checksum: int
    def __init__(self, first_round: _Optional[int] = ..., count: _Optional[int] = ..., packed: _Optional[bytes] = ..., checksum: _Optional[int] = ...) -> None: ...

class End(_message.Message):
    __slots__ = ("rounds",)
    ROUNDS_FIELD_NUMBER: _ClassVar[int]
    rounds: int
    def __init__(self, rounds: _Optional[int] = ...) -> None: ...

class Ack(_message.Message):
    __slots__ = ("next_round",)
    NEXT_ROUND_FIELD_NUMBER: _ClassVar[int]
    next_round: int
    def __init__(self, next_round: _Optional[int] = ...) -> None: ...

class Lost(_message.Message):
    __slots__ = ("next_round",)
    NEXT_ROUND_FIELD_NUMBER: _ClassVar[int]
    next_round: int
    def __init__(self, next_round: _Optional[int] = ...) -> None: ...

class Refusal(_message.Message):
    __slots__ = ("reason",)
    REASON_FIELD_NUMBER: _ClassVar[int]
    reason: str
    def __init__(self, reason: _Optional[str] = ...) -> None: ...

class Prompt(_message.Message):
    __slots__ = ("request", "seed", "scheme", "drafts", "length", "max_tokens", "temperatures", "top_k", "top_p", "count", "packed", "checksum", "made", "ahead")
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    SCHEME_FIELD_NUMBER: _ClassVar[int]
    DRAFTS_FIELD_NUMBER: _ClassVar[int]
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    MAX_TOKENS_FIELD_NUMBER: _ClassVar[int]
    TEMPERATURES_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    TOP_P_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    PACKED_FIELD_NUMBER: _ClassVar[int]
    CHECKSUM_FIELD_NUMBER: _ClassVar[int]
    MADE_FIELD_NUMBER: _ClassVar[int]
    AHEAD_FIELD_NUMBER: _ClassVar[int]
    request: int
    seed: int
    scheme: str
    drafts: int
    length: int
    max_tokens: int
    temperatures: _containers.RepeatedScalarFieldContainer[float]
    top_k: int
    top_p: float
    count: int
    packed: bytes
    checksum: int
    made: int
    ahead: int
    def __init__(self, request: _Optional[int] = ..., seed: _Optional[int] = ..., scheme: _Optional[str] = ..., drafts: _Optional[int] = ..., length: _Optional[int] = ..., max_tokens: _Optional[int] = ..., temperatures: _Optional[_Iterable[float]] = ..., top_k: _Optional[int] = ..., top_p: _Optional[float] = ..., count: _Optional[int] = ..., packed: _Optional[bytes] = ..., checksum: _Optional[int] = ..., made: _Optional[int] = ..., ahead: _Optional[int] = ...) -> None: ...

class Tokens(_message.Message):
    __slots__ = ("request", "position", "count", "packed", "probabilities")
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    PACKED_FIELD_NUMBER: _ClassVar[int]
    PROBABILITIES_FIELD_NUMBER: _ClassVar[int]
    request: int
    position: int
    count: int
    packed: bytes
    probabilities: bytes
    def __init__(self, request: _Optional[int] = ..., position: _Optional[int] = ..., count: _Optional[int] = ..., packed: _Optional[bytes] = ..., probabilities: _Optional[bytes] = ...) -> None: ...

class Wanted(_message.Message):
    __slots__ = ("request", "position", "stream", "depth")
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    STREAM_FIELD_NUMBER: _ClassVar[int]
    DEPTH_FIELD_NUMBER: _ClassVar[int]
    request: int
    position: int
    stream: int
    depth: int
    def __init__(self, request: _Optional[int] = ..., position: _Optional[int] = ..., stream: _Optional[int] = ..., depth: _Optional[int] = ...) -> None: ...

class Row(_message.Message):
    __slots__ = ("request", "position", "stream", "depth", "count", "packed", "checksum")
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    STREAM_FIELD_NUMBER: _ClassVar[int]
    DEPTH_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    PACKED_FIELD_NUMBER: _ClassVar[int]
    CHECKSUM_FIELD_NUMBER: _ClassVar[int]
    request: int
    position: int
    stream: int
    depth: int
    count: int
    packed: bytes
    checksum: int
    def __init__(self, request: _Optional[int] = ..., position: _Optional[int] = ..., stream: _Optional[int] = ..., depth: _Optional[int] = ..., count: _Optional[int] = ..., packed: _Optional[bytes] = ..., checksum: _Optional[int] = ...) -> None: ...

class Done(_message.Message):
    __slots__ = ("request",)
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    request: int
    def __init__(self, request: _Optional[int] = ...) -> None: ...

class Spent(_message.Message):
    __slots__ = ("request", "seconds", "traffic", "alone")
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    TRAFFIC_FIELD_NUMBER: _ClassVar[int]
    ALONE_FIELD_NUMBER: _ClassVar[int]
    request: int
    seconds: float
    traffic: Traffic
    alone: bool
    def __init__(self, request: _Optional[int] = ..., seconds: _Optional[float] = ..., traffic: _Optional[_Union[Traffic, _Mapping]] = ..., alone: _Optional[bool] = ...) -> None: ...

class Traffic(_message.Message):
    __slots__ = ("down", "up")
    DOWN_FIELD_NUMBER: _ClassVar[int]
    UP_FIELD_NUMBER: _ClassVar[int]
    down: Direction
    up: Direction
    def __init__(self, down: _Optional[_Union[Direction, _Mapping]] = ..., up: _Optional[_Union[Direction, _Mapping]] = ...) -> None: ...

class Direction(_message.Message):
    __slots__ = ("packed", "protobuf", "stream", "ip")
    PACKED_FIELD_NUMBER: _ClassVar[int]
    PROTOBUF_FIELD_NUMBER: _ClassVar[int]
    STREAM_FIELD_NUMBER: _ClassVar[int]
    IP_FIELD_NUMBER: _ClassVar[int]
    packed: int
    protobuf: int
    stream: int
    ip: int
    def __init__(self, packed: _Optional[int] = ..., protobuf: _Optional[int] = ..., stream: _Optional[int] = ..., ip: _Optional[int] = ...) -> None: ...
