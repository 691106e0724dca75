"""A private authority, and a certificate for each party: what `glsnet certificates` writes.

    DIR/ca.pem, ca-key.pem                         the authority; its key is for making further certificates alone
    DIR/NAME/cert.pem, key.pem, ca.pem, token      all that a party needs, and nothing of another's
"""

import os
import secrets
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from glsnet.errors import CallerError

AUTHORITY = "glsnet authority"
AUTHORITY_DAYS = 3650
PARTIES = ("lab", "encoder", *(f"decoder-{k}" for k in range(4)), "target", "draft-0", "draft-1", "client", "broker")
WITHOUT_TOKEN = ("lab", "client", "broker")  # who never joins a session
LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")
_SKEW = timedelta(minutes=5)  # that clocks may differ by


def write(folder: Path, parties: Sequence[str], hosts: Mapping[str, Sequence[str]], days: int, now: datetime
          ) -> list[str]:
    """Make what is not there yet, or not valid any more; gives the names of the parties that have new certificates.

    Args:
        folder: made if it is not there; an authority that is in it goes on.
        parties: their names, which are also hosts that their certificates are good for, as is this machine.
        hosts: more names and addresses that some parties are dialled by.
        days: that a party's certificate is valid.
        now: from when.

    Raises:
        CallerError: a name is none, of a party that is not among these, or what is in the folder cannot be used.
    """
    if unknown := hosts.keys() - {*parties}:
        raise CallerError(f"--host: expected one of {', '.join(parties)}, got {', '.join(sorted(unknown))}")
    for name in parties:
        if not name or not name.replace("-", "").isalnum() or not name.isascii() or len(name) > 63:
            raise CallerError(f"party: expected letters, digits and -, got {name!r}")
    try:
        key, authority = _authority(folder, now)
        token = _token(folder)
        made = [name for name in parties if not _good(folder / name / "cert.pem", authority, now)]
        for name in made:
            own = ec.generate_private_key(ec.SECP256R1())
            names = [*dict.fromkeys((name, *LOCAL_HOSTS, *hosts.get(name, ())))]
            certificate = _party(name, names, own, key, authority, now, days)
            (folder / name).mkdir(parents=True, exist_ok=True)
            _write(folder / name / "key.pem", _pem_of_key(own), 0o600)
            _write(folder / name / "ca.pem", authority.public_bytes(Encoding.PEM), 0o644)
            if name not in WITHOUT_TOKEN:
                _write(folder / name / "token", token, 0o600)
            _write(folder / name / "cert.pem", certificate.public_bytes(Encoding.PEM), 0o644)  # last: all is there
    except OSError as error:
        raise CallerError(f"{folder}: expected a folder that can be written, got {error.strerror}") from error
    return made


def _authority(folder: Path, now: datetime) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    """The one in the folder, or a new one."""
    at, key_at = folder / "ca.pem", folder / "ca-key.pem"
    if key_at.exists():
        try:
            key = load_pem_private_key(key_at.read_bytes(), None)
            authority = x509.load_pem_x509_certificate(at.read_bytes())
        except (ValueError, TypeError, FileNotFoundError) as error:
            raise CallerError(f"{folder}: expected ca.pem and ca-key.pem as glsnet wrote them, got others: {error}; "
                              "give an empty folder") from error
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != authority.public_key():
            raise CallerError(f"{key_at}: expected the key of {at}, got another; give an empty folder")
        return key, authority
    key, name = ec.generate_private_key(ec.SECP256R1()), _name(AUTHORITY)
    authority = (
        _builder(name, name, key.public_key(), now, AUTHORITY_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(authority=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    folder.mkdir(parents=True, exist_ok=True)
    _write(at, authority.public_bytes(Encoding.PEM), 0o644)
    _write(key_at, _pem_of_key(key), 0o600)
    return key, authority


def _token(folder: Path) -> bytes:
    """The one in the folder, or a new one."""
    at = folder / "token"
    if not at.exists():
        _write(at, secrets.token_hex(32).encode() + b"\n", 0o600)
    return at.read_bytes()


def _good(path: Path, authority: x509.Certificate, now: datetime) -> bool:
    """Whether a certificate is there, of this authority, and valid for a day at least."""
    if not path.exists():
        return False
    try:
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
        certificate.verify_directly_issued_by(authority)
    except Exception:  # of several classes, by what is wrong with it
        return False
    return certificate.not_valid_after_utc > now + timedelta(days=1)


def _party(name: str, hosts: Sequence[str], own: ec.EllipticCurvePrivateKey, key: ec.EllipticCurvePrivateKey,
           authority: x509.Certificate, now: datetime, days: int) -> x509.Certificate:
    both = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    return (
        _builder(_name(name), authority.subject, own.public_key(), now, days)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(authority=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(both), critical=False)
        .add_extension(x509.SubjectAlternativeName([_host(host) for host in hosts]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )


def _builder(subject: x509.Name, issuer: x509.Name, public: ec.EllipticCurvePublicKey, now: datetime, days: int
             ) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SKEW).not_valid_after(now + timedelta(days=days))
    )


def _usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority, key_cert_sign=authority, crl_sign=authority, content_commitment=False,
        key_encipherment=False, data_encipherment=False, key_agreement=False, encipher_only=False, decipher_only=False,
    )


def _name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _pem_of_key(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _write(path: Path, data: bytes, mode: int) -> None:
    """In place at once, and never readable by more than `mode` says."""
    beside = path.with_name(f".{path.name}.new")
    beside.unlink(missing_ok=True)
    with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as handle:
        handle.write(data)
    beside.replace(path)


def today() -> datetime:
    """Now, as certificates have it."""
    return datetime.now(UTC)
