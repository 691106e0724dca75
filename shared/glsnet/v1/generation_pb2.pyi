from glsnet.v1 import exchange_pb2 as _exchange_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class GenerateRequest(_message.Message):
    __slots__ = ("prompt", "max_tokens", "seed", "temperature", "top_k", "top_p", "stop", "scheme", "drafts", "length", "draft_temperatures", "made", "ahead")
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    MAX_TOKENS_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    TOP_P_FIELD_NUMBER: _ClassVar[int]
    STOP_FIELD_NUMBER: _ClassVar[int]
    SCHEME_FIELD_NUMBER: _ClassVar[int]
    DRAFTS_FIELD_NUMBER: _ClassVar[int]
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    DRAFT_TEMPERATURES_FIELD_NUMBER: _ClassVar[int]
    MADE_FIELD_NUMBER: _ClassVar[int]
    AHEAD_FIELD_NUMBER: _ClassVar[int]
    prompt: str
    max_tokens: int
    seed: int
    temperature: float
    top_k: int
    top_p: float
    stop: _containers.RepeatedScalarFieldContainer[str]
    scheme: str
    drafts: int
    length: int
    draft_temperatures: _containers.RepeatedScalarFieldContainer[float]
    made: _containers.RepeatedScalarFieldContainer[int]
    ahead: int
    def __init__(self, prompt: _Optional[str] = ..., max_tokens: _Optional[int] = ..., seed: _Optional[int] = ..., temperature: _Optional[float] = ..., top_k: _Optional[int] = ..., top_p: _Optional[float] = ..., stop: _Optional[_Iterable[str]] = ..., scheme: _Optional[str] = ..., drafts: _Optional[int] = ..., length: _Optional[int] = ..., draft_temperatures: _Optional[_Iterable[float]] = ..., made: _Optional[_Iterable[int]] = ..., ahead: _Optional[int] = ...) -> None: ...

class GenerateReply(_message.Message):
    __slots__ = ("piece", "finished")
    PIECE_FIELD_NUMBER: _ClassVar[int]
    FINISHED_FIELD_NUMBER: _ClassVar[int]
    piece: Piece
    finished: Finished
    def __init__(self, piece: _Optional[_Union[Piece, _Mapping]] = ..., finished: _Optional[_Union[Finished, _Mapping]] = ...) -> None: ...

class Piece(_message.Message):
    __slots__ = ("text", "tokens", "agreed")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    AGREED_FIELD_NUMBER: _ClassVar[int]
    text: str
    tokens: _containers.RepeatedScalarFieldContainer[int]
    agreed: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, text: _Optional[str] = ..., tokens: _Optional[_Iterable[int]] = ..., agreed: _Optional[_Iterable[int]] = ...) -> None: ...

class Finished(_message.Message):
    __slots__ = ("reason", "tokens", "blocks", "drafted", "accepted", "tokens_sent", "probabilities_sent", "rows_sent", "round_trips", "seconds", "draft_seconds", "verify_seconds", "wait_seconds", "information_down", "information_up", "traffic", "alone", "context", "late_drafts", "wasted")
    REASON_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    BLOCKS_FIELD_NUMBER: _ClassVar[int]
    DRAFTED_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    TOKENS_SENT_FIELD_NUMBER: _ClassVar[int]
    PROBABILITIES_SENT_FIELD_NUMBER: _ClassVar[int]
    ROWS_SENT_FIELD_NUMBER: _ClassVar[int]
    ROUND_TRIPS_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    DRAFT_SECONDS_FIELD_NUMBER: _ClassVar[int]
    VERIFY_SECONDS_FIELD_NUMBER: _ClassVar[int]
    WAIT_SECONDS_FIELD_NUMBER: _ClassVar[int]
    INFORMATION_DOWN_FIELD_NUMBER: _ClassVar[int]
    INFORMATION_UP_FIELD_NUMBER: _ClassVar[int]
    TRAFFIC_FIELD_NUMBER: _ClassVar[int]
    ALONE_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    LATE_DRAFTS_FIELD_NUMBER: _ClassVar[int]
    WASTED_FIELD_NUMBER: _ClassVar[int]
    reason: str
    tokens: int
    blocks: int
    drafted: _containers.RepeatedScalarFieldContainer[int]
    accepted: _containers.RepeatedScalarFieldContainer[int]
    tokens_sent: int
    probabilities_sent: int
    rows_sent: int
    round_trips: int
    seconds: float
    draft_seconds: float
    verify_seconds: float
    wait_seconds: float
    information_down: int
    information_up: int
    traffic: _exchange_pb2.Traffic
    alone: bool
    context: int
    late_drafts: int
    wasted: int
    def __init__(self, reason: _Optional[str] = ..., tokens: _Optional[int] = ..., blocks: _Optional[int] = ..., drafted: _Optional[_Iterable[int]] = ..., accepted: _Optional[_Iterable[int]] = ..., tokens_sent: _Optional[int] = ..., probabilities_sent: _Optional[int] = ..., rows_sent: _Optional[int] = ..., round_trips: _Optional[int] = ..., seconds: _Optional[float] = ..., draft_seconds: _Optional[float] = ..., verify_seconds: _Optional[float] = ..., wait_seconds: _Optional[float] = ..., information_down: _Optional[int] = ..., information_up: _Optional[int] = ..., traffic: _Optional[_Union[_exchange_pb2.Traffic, _Mapping]] = ..., alone: _Optional[bool] = ..., context: _Optional[int] = ..., late_drafts: _Optional[int] = ..., wasted: _Optional[int] = ...) -> None: ...

class StatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class StatusReply(_message.Message):
    __slots__ = ("model", "vocabulary", "context", "streams", "drafting")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VOCABULARY_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    STREAMS_FIELD_NUMBER: _ClassVar[int]
    DRAFTING_FIELD_NUMBER: _ClassVar[int]
    model: str
    vocabulary: int
    context: int
    streams: int
    drafting: int
    def __init__(self, model: _Optional[str] = ..., vocabulary: _Optional[int] = ..., context: _Optional[int] = ..., streams: _Optional[int] = ..., drafting: _Optional[int] = ...) -> None: ...
