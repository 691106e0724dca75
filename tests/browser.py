"""A headless Chromium that tests look at pages with, driven through a pipe."""

import base64
import json
import os
import select
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
HEADLESS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync",
            "--disable-component-update", "--no-first-run", "--hide-scrollbars")
# A browser reads orders from its file 3, and writes answers to its file 4.
PIPED = """
import fcntl, os, sys
ends = [fcntl.fcntl(int(end), fcntl.F_DUPFD, 10) for end in sys.argv[1:3]]
for end, at in zip(ends, (3, 4)):
    os.dup2(end, at)
os.execv(sys.argv[3], sys.argv[3:])
"""


class Page:
    """One page of a browser, by the DevTools protocol: JSON texts that end with a zero byte."""

    def __init__(self, to: int, back: int) -> None:
        self._to, self._back, self._left, self._calls, self._session = to, back, b"", 0, ""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command, and its result."""
        self._calls += 1
        order = {"id": self._calls, "method": method, "params": parameters}
        if self._session:
            order["sessionId"] = self._session
        os.write(self._to, json.dumps(order).encode() + b"\0")
        while (answer := self._next()).get("id") != self._calls:
            pass  # an event
        assert "error" not in answer, answer
        result: dict[str, Any] = answer["result"]
        return result

    def ask(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page."""
        given = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in given, given
        return given["result"].get("value")

    def open(self, url: str) -> None:
        """Go there."""
        self.call("Page.navigate", url=url)

    def screenshot(self, path: Path, width: int, height: int, *, dark: bool = False) -> None:
        """Write a PNG of what a window of this size shows."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.ask("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._left:
            ready, _, _ = select.select([self._back], [], [], 60)
            data = os.read(self._back, 1 << 16) if ready else b""
            assert data, "the browser has ended, or does not answer"
            self._left += data
        text, _, self._left = self._left.partition(b"\0")
        answer: dict[str, Any] = json.loads(text)
        return answer


@contextmanager
def browsing(profile: Path) -> Iterator[Page]:
    """A page of a browser that is gone after the block; `profile` is a folder for what it keeps."""
    assert CHROMIUM is not None
    (ours_in, to), (back, ours_out) = os.pipe(), os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-c", PIPED, str(ours_in), str(ours_out), CHROMIUM, *HEADLESS, "--remote-debugging-pipe",
         f"--user-data-dir={profile}"],
        pass_fds=(ours_in, ours_out), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for end in (ours_in, ours_out):
            os.close(end)
        yield Page(to, back)
    finally:
        for end in (to, back):  # of the pipe: it ends with it
            os.close(end)
        process.wait(timeout=30)
