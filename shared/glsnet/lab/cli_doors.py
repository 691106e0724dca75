"""`glsnet certificates` and `glsnet health`: who may talk with whom, and whether anybody is there."""

from pathlib import Path
from typing import Annotated

import typer

from glsnet.errors import CallerError
from glsnet.lab.terminal import security
from glsnet.transport import health
from glsnet.transport.rpc import check_address


def make_certificates(
    folder: Annotated[Path, typer.Argument(help="Folder to write to; what is there and valid is kept.")],
    parties: Annotated[list[str] | None, typer.Argument(help="Names of parties. Default: lab, encoder, decoder-0 to "
                                                        "decoder-3, target, draft-0, draft-1, client, broker.")] = None,
    host: Annotated[list[str] | None, typer.Option(metavar="NAME=HOST", help="One more name or address by which a "
                                                   "party is dialled; may be given again. Its own name and this "
                                                   "machine are among them.")] = None,
    days: Annotated[int, typer.Option(min=1, max=3650, help="For how long they are valid.")] = 365,
) -> None:
    """Make a private authority, and a certificate for each party.

    Each party gets a folder with all that it needs, to be taken where it runs: `cert.pem`, `key.pem`, `ca.pem`, and the
    `token` of sessions that no lab opens. `DIR/ca-key.pem` makes further certificates; keep it apart.

    - `glsnet certificates tls --host encoder=10.0.0.5`
    - `python -m encoder_service --listen 0.0.0.0:7000 --tls-cert tls/encoder/cert.pem --tls-key tls/encoder/key.pem
      --tls-ca tls/encoder/ca.pem`
    - `glsnet --tls-cert tls/lab/cert.pem --tls-key tls/lab/key.pem --tls-ca tls/lab/ca.pem run gaussian --encoder
      10.0.0.5:7000 ...`

    The name in a certificate says who a party is. Orders are taken from `lab` alone, and a stream that one name has
    joined is not another's.
    """
    from glsnet.lab import certificates  # only here

    hosts: dict[str, list[str]] = {}
    for each in host or []:
        name, equals, value = each.partition("=")
        if not equals or not value:
            raise CallerError(f"--host: expected NAME=HOST, got {each!r}")
        hosts.setdefault(name, []).append(value)
    names = list(dict.fromkeys(parties or certificates.PARTIES))
    made = certificates.write(folder, names, hosts, days, certificates.today())
    print(f"{folder}: {', '.join(made) or 'all there, nothing made'}")


def ask_health(
    context: typer.Context,
    address: Annotated[str, typer.Argument(metavar="HOST:PORT", help="Of any glsnet service.")],
    wait: Annotated[float, typer.Option(min=0.1, help="Seconds to wait for it.")] = health.SECONDS,
) -> None:
    """Exit 0 if a service is there and serving.

    For a check that runs often, `python -m glsnet.transport.health HOST:PORT` loads less and does the same.
    """
    health.check(check_address(address), security(context), wait)
    print(f"{address}: serving")
