"""Whether a service is there: `python -m glsnet.transport.health HOST:PORT`, or `glsnet health`, which loads more.

The certificate is that of the process which asks: GLSNET_TLS_CERT, GLSNET_TLS_KEY and GLSNET_TLS_CA, as of services.
"""

import os
import sys
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from glsnet.errors import GlsnetError, TransportError
from glsnet.transport.security import Security, Tls

SECONDS = 5.0
_YES = ("1", "true", "t", "yes", "y", "on")  # as of the option


def check(address: str, security: Security, seconds: float = SECONDS) -> None:
    """Ask the service at HOST:PORT, and wait so long for its answer.

    Raises:
        CallerError: plain text to this address is not allowed.
        TransportError: nothing answers in time, or what does is not serving.
    """
    security.check(address, "asking")
    with (grpc.insecure_channel(address) if security.tls is None
          else grpc.secure_channel(address, security.tls.client())) as channel:
        try:
            stub = health_pb2_grpc.HealthStub(channel)
            answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=seconds, wait_for_ready=True)
        except grpc.RpcError as error:
            raise TransportError(f"{address}: expected a service within {seconds:g} s, got none: "
                                 f"{error.details()}") from error
    if answer.status != health_pb2.HealthCheckResponse.SERVING:
        raise TransportError(f"{address}: expected it to be serving, it is not")


def main() -> None:
    """Exit 0 if the service at the address, the only argument, is serving."""
    files = [Path(value) if (value := os.environ.get(name)) else None
             for name in ("GLSNET_TLS_CERT", "GLSNET_TLS_KEY", "GLSNET_TLS_CA")]
    try:
        (address,) = sys.argv[1:]
        check(address, Security(Tls.of(*files), os.environ.get("GLSNET_INSECURE", "").lower() in _YES))
    except ValueError as error:
        sys.exit(f"expected one HOST:PORT: {error}")
    except GlsnetError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
