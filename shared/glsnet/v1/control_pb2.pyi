from glsnet.v1 import exchange_pb2 as _exchange_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Order(_message.Message):
    __slots__ = ("open", "samples", "draw")
    OPEN_FIELD_NUMBER: _ClassVar[int]
    SAMPLES_FIELD_NUMBER: _ClassVar[int]
    DRAW_FIELD_NUMBER: _ClassVar[int]
    open: Open
    samples: Samples
    draw: Draw
    def __init__(self, open: _Optional[_Union[Open, _Mapping]] = ..., samples: _Optional[_Union[Samples, _Mapping]] = ..., draw: _Optional[_Union[Draw, _Mapping]] = ...) -> None: ...

class Open(_message.Message):
    __slots__ = ("session", "seed", "terms", "decoder", "next_round", "patience", "wait_for", "token", "broker")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    TERMS_FIELD_NUMBER: _ClassVar[int]
    DECODER_FIELD_NUMBER: _ClassVar[int]
    NEXT_ROUND_FIELD_NUMBER: _ClassVar[int]
    PATIENCE_FIELD_NUMBER: _ClassVar[int]
    WAIT_FOR_FIELD_NUMBER: _ClassVar[int]
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    BROKER_FIELD_NUMBER: _ClassVar[int]
    session: str
    seed: bytes
    terms: _exchange_pb2.Terms
    decoder: Decoder
    next_round: int
    patience: float
    wait_for: int
    token: bytes
    broker: Broker
    def __init__(self, session: _Optional[str] = ..., seed: _Optional[bytes] = ..., terms: _Optional[_Union[_exchange_pb2.Terms, _Mapping]] = ..., decoder: _Optional[_Union[Decoder, _Mapping]] = ..., next_round: _Optional[int] = ..., patience: _Optional[float] = ..., wait_for: _Optional[int] = ..., token: _Optional[bytes] = ..., broker: _Optional[_Union[Broker, _Mapping]] = ...) -> None: ...

class Broker(_message.Message):
    __slots__ = ("address", "qos")
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    QOS_FIELD_NUMBER: _ClassVar[int]
    address: str
    qos: int
    def __init__(self, address: _Optional[str] = ..., qos: _Optional[int] = ...) -> None: ...

class Decoder(_message.Message):
    __slots__ = ("encoder", "stream", "slope", "intercept", "residual")
    ENCODER_FIELD_NUMBER: _ClassVar[int]
    STREAM_FIELD_NUMBER: _ClassVar[int]
    SLOPE_FIELD_NUMBER: _ClassVar[int]
    INTERCEPT_FIELD_NUMBER: _ClassVar[int]
    RESIDUAL_FIELD_NUMBER: _ClassVar[int]
    encoder: str
    stream: int
    slope: float
    intercept: float
    residual: float
    def __init__(self, encoder: _Optional[str] = ..., stream: _Optional[int] = ..., slope: _Optional[float] = ..., intercept: _Optional[float] = ..., residual: _Optional[float] = ...) -> None: ...

class Samples(_message.Message):
    __slots__ = ("values", "pixels")
    VALUES_FIELD_NUMBER: _ClassVar[int]
    PIXELS_FIELD_NUMBER: _ClassVar[int]
    values: bytes
    pixels: bytes
    def __init__(self, values: _Optional[bytes] = ..., pixels: _Optional[bytes] = ...) -> None: ...

class Draw(_message.Message):
    __slots__ = ("rounds", "probabilities")
    ROUNDS_FIELD_NUMBER: _ClassVar[int]
    PROBABILITIES_FIELD_NUMBER: _ClassVar[int]
    rounds: int
    probabilities: bytes
    def __init__(self, rounds: _Optional[int] = ..., probabilities: _Optional[bytes] = ...) -> None: ...

class Report(_message.Message):
    __slots__ = ("opened", "outcomes", "closed", "drawn")
    OPENED_FIELD_NUMBER: _ClassVar[int]
    OUTCOMES_FIELD_NUMBER: _ClassVar[int]
    CLOSED_FIELD_NUMBER: _ClassVar[int]
    DRAWN_FIELD_NUMBER: _ClassVar[int]
    opened: Opened
    outcomes: Outcomes
    closed: Closed
    drawn: Drawn
    def __init__(self, opened: _Optional[_Union[Opened, _Mapping]] = ..., outcomes: _Optional[_Union[Outcomes, _Mapping]] = ..., closed: _Optional[_Union[Closed, _Mapping]] = ..., drawn: _Optional[_Union[Drawn, _Mapping]] = ...) -> None: ...

class Opened(_message.Message):
    __slots__ = ("next_round",)
    NEXT_ROUND_FIELD_NUMBER: _ClassVar[int]
    next_round: int
    def __init__(self, next_round: _Optional[int] = ...) -> None: ...

class Header(_message.Message):
    __slots__ = ("session", "seed_digest", "party")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    SEED_DIGEST_FIELD_NUMBER: _ClassVar[int]
    PARTY_FIELD_NUMBER: _ClassVar[int]
    session: str
    seed_digest: str
    party: bytes
    def __init__(self, session: _Optional[str] = ..., seed_digest: _Optional[str] = ..., party: _Optional[bytes] = ...) -> None: ...

class Recorded(_message.Message):
    __slots__ = ("indices", "outcomes")
    INDICES_FIELD_NUMBER: _ClassVar[int]
    OUTCOMES_FIELD_NUMBER: _ClassVar[int]
    indices: _exchange_pb2.Indices
    outcomes: Outcomes
    def __init__(self, indices: _Optional[_Union[_exchange_pb2.Indices, _Mapping]] = ..., outcomes: _Optional[_Union[Outcomes, _Mapping]] = ...) -> None: ...

class Outcomes(_message.Message):
    __slots__ = ("first_round", "count", "message", "stream", "node", "reconstruction", "pixels", "packed")
    FIRST_ROUND_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    STREAM_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    RECONSTRUCTION_FIELD_NUMBER: _ClassVar[int]
    PIXELS_FIELD_NUMBER: _ClassVar[int]
    PACKED_FIELD_NUMBER: _ClassVar[int]
    first_round: int
    count: int
    message: bytes
    stream: bytes
    node: bytes
    reconstruction: bytes
    pixels: bytes
    packed: int
    def __init__(self, first_round: _Optional[int] = ..., count: _Optional[int] = ..., message: _Optional[bytes] = ..., stream: _Optional[bytes] = ..., node: _Optional[bytes] = ..., reconstruction: _Optional[bytes] = ..., pixels: _Optional[bytes] = ..., packed: _Optional[int] = ...) -> None: ...

class Drawn(_message.Message):
    __slots__ = ("first_round", "count", "items", "indices", "bits_sent")
    FIRST_ROUND_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    INDICES_FIELD_NUMBER: _ClassVar[int]
    BITS_SENT_FIELD_NUMBER: _ClassVar[int]
    first_round: int
    count: int
    items: bytes
    indices: _containers.RepeatedScalarFieldContainer[int]
    bits_sent: float
    def __init__(self, first_round: _Optional[int] = ..., count: _Optional[int] = ..., items: _Optional[bytes] = ..., indices: _Optional[_Iterable[int]] = ..., bits_sent: _Optional[float] = ...) -> None: ...

class Closed(_message.Message):
    __slots__ = ("rounds", "digest", "meter", "seconds")
    ROUNDS_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    METER_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    rounds: int
    digest: bytes
    meter: Meter
    seconds: Seconds
    def __init__(self, rounds: _Optional[int] = ..., digest: _Optional[bytes] = ..., meter: _Optional[_Union[Meter, _Mapping]] = ..., seconds: _Optional[_Union[Seconds, _Mapping]] = ...) -> None: ...

class Seconds(_message.Message):
    __slots__ = ("networks", "races", "process")
    NETWORKS_FIELD_NUMBER: _ClassVar[int]
    RACES_FIELD_NUMBER: _ClassVar[int]
    PROCESS_FIELD_NUMBER: _ClassVar[int]
    networks: float
    races: float
    process: float
    def __init__(self, networks: _Optional[float] = ..., races: _Optional[float] = ..., process: _Optional[float] = ...) -> None: ...

class Meter(_message.Message):
    __slots__ = ("setup", "rounds")
    SETUP_FIELD_NUMBER: _ClassVar[int]
    ROUNDS_FIELD_NUMBER: _ClassVar[int]
    setup: _exchange_pb2.Traffic
    rounds: _exchange_pb2.Traffic
    def __init__(self, setup: _Optional[_Union[_exchange_pb2.Traffic, _Mapping]] = ..., rounds: _Optional[_Union[_exchange_pb2.Traffic, _Mapping]] = ...) -> None: ...
