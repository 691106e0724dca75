"""Who may talk with whom: certificates at both ends of every connection, or plain text on this machine alone.

    Tls         this party's certificate and key, and the authority that has to have signed its peers'
    Security    what a process was started with
    is_local    whether an address is one of this machine alone
    read_token  a session's secret, from a file
"""

import ssl
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

import grpc
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from glsnet.errors import CallerError

LAB = "lab"  # whose certificate says so may give orders
MIN_TOKEN_BYTES = 16
WRONG_HOST = ("expected a certificate for this host, got one for others; glsnet certificates --host NAME=HOST makes "
              "one")
WRONG_CERTIFICATE = "expected a certificate that --tls-ca has signed and that is valid now, got another"


@dataclass(frozen=True)
class Tls:
    """Files, PEM, of which `of` has seen that they fit."""

    certificate: Path
    key: Path
    authority: Path

    @classmethod
    def of(cls, certificate: Path | None, key: Path | None, authority: Path | None) -> "Tls | None":
        """What three options name, None without any.

        Raises:
            CallerError: one of them is missing, cannot be read, or does not go with the others.
        """
        match certificate, key, authority:
            case None, None, None:
                return None
            case Path(), Path(), Path():
                if _public(certificate) != _public_of_private(key):
                    raise CallerError(f"--tls-key: expected the key of {certificate}, got another in {key}")
                _public(authority)
                return cls(certificate, key, authority)
        raise CallerError("--tls-cert, --tls-key and --tls-ca: expected all of them or none; glsnet certificates "
                          "makes them")

    def client(self) -> grpc.ChannelCredentials:
        """For dialling."""
        return grpc.ssl_channel_credentials(self.authority.read_bytes(), self.key.read_bytes(),
                                            self.certificate.read_bytes())

    def server(self) -> grpc.ServerCredentials:
        """For listening: who dials must have a certificate, too."""
        pair = self.key.read_bytes(), self.certificate.read_bytes()
        return grpc.ssl_server_credentials([pair], self.authority.read_bytes(), require_client_auth=True)

    def context(self, *, serve: bool) -> ssl.SSLContext:
        """The same for what is not gRPC."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH if serve else ssl.Purpose.SERVER_AUTH,
                                             cafile=str(self.authority))
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_cert_chain(self.certificate, self.key)
        return context

    def options(self) -> list[str]:
        """Of a process that is to be the same party."""
        return [f"--tls-cert={self.certificate}", f"--tls-key={self.key}", f"--tls-ca={self.authority}"]


@dataclass(frozen=True)
class Security:
    """What a process was started with: without `tls` it talks in plain text, on this machine unless `insecure`."""

    tls: Tls | None = None
    insecure: bool = False

    def check(self, address: str, doing: str) -> None:
        """Raise CallerError if HOST:PORT is not to be listened on, or dialled, in plain text."""
        if self.tls is None and not self.insecure and not is_local(address):
            raise CallerError(f"{doing} {address}: expected --tls-cert, --tls-key and --tls-ca for an address that is "
                              "not this machine's own, got none; glsnet certificates makes them, --insecure goes "
                              "without")

    def options(self) -> list[str]:
        """Of a process that is to be the same party."""
        return [*([] if self.tls is None else self.tls.options()), *(["--insecure"] if self.insecure else [])]


LOCAL = Security()


def host_of(address: str) -> str:
    """HOST of HOST:PORT, without brackets."""
    return address.rpartition(":")[0].strip("[]")


def place_of(address: str) -> tuple[str, int]:
    """Host and port of HOST:PORT, port 0 for any that is free; raises CallerError if it is none."""
    host, port = host_of(address), address.rpartition(":")[2]
    if not (host and port.isascii() and port.isdecimal() and int(port) < 65536):
        raise CallerError(f"address: expected HOST:PORT, got {address!r}")
    return host, int(port)


def is_local(address: str) -> bool:
    """Whether HOST:PORT is on a loopback interface, and so is reached from this machine alone."""
    host = host_of(address)
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def read_token(path: Path | None) -> bytes:
    """A session's token from a file, without white space around it; empty without a file.

    Raises:
        CallerError: it cannot be read, or is too short to be a secret.
    """
    if path is None:
        return b""
    token = _read(path, "--token-file").strip()
    if len(token) < MIN_TOKEN_BYTES:
        raise CallerError(f"--token-file: expected at least {MIN_TOKEN_BYTES} bytes in {path}, got {len(token)}; "
                          "glsnet certificates makes one")
    return token


def _public(path: Path) -> PublicKeyTypes:
    data = _read(path, "--tls-cert or --tls-ca")
    try:
        return x509.load_pem_x509_certificate(data).public_key()
    except (ValueError, UnsupportedAlgorithm) as error:
        raise CallerError(f"{path}: expected a certificate in PEM, got something else") from error


def _public_of_private(path: Path) -> PublicKeyTypes:
    data = _read(path, "--tls-key")
    try:
        return load_pem_private_key(data, None).public_key()
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise CallerError(f"{path}: expected a private key in PEM without a password, got something else") from error


def _read(path: Path, option: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CallerError(f"{option}: expected a file that can be read, got {path}: {error.strerror}") from error
