"""What TLS costs: the same run between the same kinds of processes with certificates and without, in turns.

`make tls`: seconds to a minute. Prints bytes of a decoder's stream and samples per second, and their ratios.
"""

import asyncio
import sys
import tempfile
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from processes import gaussian_plan, security_in

from glsnet.lab import certificates
from glsnet.lab.plan import Ended, Parties
from glsnet.lab.processes import Process, stopped
from glsnet.lab.runner import compile_once, play
from glsnet.transport.security import LOCAL

DECODERS, SAMPLES, TURNS = 4, 200_000, 5
FRAMES = (4096, 64)
SERVICES = [("encoder", "encoder_service"), *((f"decoder-{k}", "decoder_service") for k in range(DECODERS))]


async def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        certificates.write(folder, certificates.PARTIES, {}, 1, certificates.today())

        def processes(tls: bool) -> list[Process]:
            return [Process(f"{party} {'tls' if tls else 'plain'}", module,
                            security_in(folder / party).options() if tls else [], folder)
                    for party, module in SERVICES]

        both = {False: processes(False), True: processes(True)}
        async with stopped(both[False], *both[True]):
            for each in (*both[False], *both[True]):
                await each.start()
            labs = {False: LOCAL, True: security_in(folder / "lab")}
            parties = {tls: Parties(first.address, [each.address for each in rest], security=labs[tls])
                       for tls, (first, *rest) in both.items()}
            for frame in FRAMES:
                await compare(frame, parties)


async def compare(frame: int, parties: dict[bool, Parties]) -> None:
    """One line for each, and one for their ratio."""
    plan = gaussian_plan(SAMPLES if frame > 1000 else SAMPLES // 10, DECODERS, frame, 30.0)
    compile_once(plan)
    ended: dict[bool, list[Ended]] = {False: [], True: []}
    for turn in range(TURNS + 1):
        for tls in (False, True):
            one = await play(plan, parties[tls], lambda _: None)
            if turn:  # the first warms up
                ended[tls].append(one)
    assert len({each.digest for of in ended.values() for each in of}) == 1
    samples = sum(len(a) for a, _ in plan.frames())
    print(f"\nframes of {frame} samples, K = {DECODERS}, {TURNS} turns of {samples:,} samples")
    print("               samples/s   bits/sample: stream     TCP/IP   set-up bytes: down     up")
    rows = {tls: row(of, samples) for tls, of in ended.items()}
    for tls, name in ((False, "plain text"), (True, "mutual TLS")):
        speed, stream, ip, down, up = rows[tls]
        print(f"{name}   {speed:12,.0f}   {stream:19.4f} {ip:10.4f}   {down:18.0f} {up:6.0f}")
    print("ratio        " + "  ".join(f"{there / here:.3f}" for here, there in zip(*rows.values(), strict=True)))


def row(of: list[Ended], samples: int) -> tuple[float, float, float, float, float]:
    """Medians over turns, of the first decoder's bytes."""
    metered = [each.metered[0] for each in of]
    assert all(each is not None for each in metered)
    known = [each for each in metered if each is not None]
    return (median(samples / each.elapsed for each in of),
            median(8 * each.rounds_down.stream / samples for each in known),
            median(8 * (each.rounds_down.ip or 0) / samples for each in known),
            median(each.setup_down.stream for each in known), median(each.setup_up.stream for each in known))


if __name__ == "__main__":
    asyncio.run(main())
