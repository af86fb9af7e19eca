"""A page as a browser shows it: Debian's Chromium without a screen, controlled over a pipe.

Nothing has to be installed beside Chromium: its protocol (https://chromedevtools.github.io/devtools-protocol/) has a
JSON object for each message, ended by a zero byte, on the file descriptors 3 and 4.
"""

import base64
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

LOCK_TIMEOUT_S = 60.0
FLAGS = (
    "--headless=new",
    "--no-sandbox",  # which root cannot have, as in a container; only our own pages are shown
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)


def program() -> str | None:
    """The browser; none where it is not installed."""
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@dataclass
class Page:
    """A page that is shown."""

    browser: "Browser"
    session: str
    errors: list[str] = field(default_factory=list)  # of its scripts, and what it could not load

    def evaluate(self, script: str) -> Any:
        """The value of the JavaScript expression; of a promise, what it resolves to.

        Raises:
            RuntimeError: it throws.

        """
        answer = self.tell("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(_thrown(answer["exceptionDetails"]))
        return answer["result"].get("value")

    @property
    def text(self) -> str:
        """Its words, as far as they are shown."""
        return str(self.evaluate("document.body.innerText"))

    def wait_for(self, script: str, seconds: float = 20) -> Any:
        """Wait until the expression is true; returns what it reaches."""
        until = time.monotonic() + seconds
        while not (found := self.evaluate(script)):
            assert time.monotonic() < until, f"{script} never came true; errors: {self.errors}; text: {self.text}"
            time.sleep(0.05)
        return found

    def turn(self, *, dark: bool) -> None:
        """Have its reader want dark or light pages."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.tell("Emulation.setEmulatedMedia", features=[scheme])

    def hover(self, x: float, y: float) -> None:
        """Move the mouse there, in pixels from the window's upper left corner; a phone may show a part of it only."""
        left, top = self.evaluate("[visualViewport.offsetLeft, visualViewport.offsetTop]")
        self.tell("Input.dispatchMouseEvent", type="mouseMoved", x=x - left, y=y - top)

    def screenshot(self, path: Path, *, whole: bool = False) -> Path:
        """Write what is seen as a PNG; `whole`: what one would have to scroll to, too."""
        shot = self.tell("Page.captureScreenshot", format="png", captureBeyondViewport=whole, **self._clip(whole))
        path.write_bytes(base64.b64decode(shot["data"]))
        return path

    def _clip(self, whole: bool) -> dict[str, Any]:
        size = self.tell("Page.getLayoutMetrics")["cssContentSize"] if whole else None
        return {"clip": {**size, "scale": 1}} if size else {}

    def tell(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Give a command of the protocol; returns its answer."""
        return self.browser.tell(method, self.session, **parameters)

    def noted(self, event: dict[str, Any]) -> None:
        """Keep what went wrong."""
        what = event.get("params", {})
        if event["method"] == "Runtime.exceptionThrown":
            self.errors.append(_thrown(what["exceptionDetails"]))
        elif event["method"] == "Runtime.consoleAPICalled" and what["type"] in {"error", "assert"}:
            self.errors.append(" ".join(str(each.get("value", each.get("description"))) for each in what["args"]))
        elif event["method"] == "Log.entryAdded" and what["entry"]["level"] == "error":
            self.errors.append(f"{what['entry']['text']} {what['entry'].get('url', '')}".strip())


class Browser:
    """A running browser."""

    def __init__(self, reader: int, writer: int) -> None:
        self._reader, self._writer = reader, writer
        self._left = b""  # of a message that has not come whole
        self._number = 0
        self._pages: dict[str, Page] = {}

    def load(
        self, where: str | Path, *, width: int = 1280, height: int = 900, dark: bool = False, seconds: float = 20
    ) -> Page:
        """Show a page, or a file, in a window of this size, and wait until it is loaded, for at most `seconds`."""
        url = _url(where)
        for session in self._pages:  # one at a time
            self.tell("Page.close", session)
        self._pages.clear()
        target = self.tell("Target.createTarget", url="about:blank")["targetId"]
        page = Page(self, self.tell("Target.attachToTarget", targetId=target, flatten=True)["sessionId"])
        self._pages[page.session] = page
        for domain in ("Page", "Runtime", "Log"):
            page.tell(f"{domain}.enable")
        page.tell(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        page.tell("Emulation.setTouchEmulationEnabled", enabled=width < 600)
        page.turn(dark=dark)
        page.tell("Page.navigate", url=url)
        page.wait_for("location.href != 'about:blank' && document.readyState == 'complete'", seconds)
        return page

    def shown(self, where: str | Path) -> Page | None:
        """The page that is shown, if it is this one."""
        return next((page for page in self._pages.values() if page.evaluate("location.href") == _url(where)), None)

    def tell(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """Give a command of the protocol; returns its answer."""
        self._number += 1
        command = {"id": self._number, "method": method, "params": parameters}
        os.write(self._writer, json.dumps(command | ({"sessionId": session} if session else {})).encode() + b"\0")
        while True:
            message = self._next()
            if message.get("id") == self._number:
                assert "error" not in message, message["error"]
                result: dict[str, Any] = message["result"]
                return result
            if page := self._pages.get(message.get("sessionId", "")):
                page.noted(message)

    def _next(self) -> dict[str, Any]:
        until = time.monotonic() + LOCK_TIMEOUT_S
        while b"\0" not in self._left:
            ready, _, _ = select.select([self._reader], [], [], max(until - time.monotonic(), 0))
            assert ready, f"the browser has said nothing for {LOCK_TIMEOUT_S:.0f} s"
            more = os.read(self._reader, 1 << 20)
            assert more, "the browser has ended"
            self._left += more
        first, _, self._left = self._left.partition(b"\0")
        message: dict[str, Any] = json.loads(first)
        return message


@contextmanager
def browser(profile: Path) -> Iterator[Browser]:
    """A browser that keeps what it has to keep in the folder `profile`."""
    (its_reader, writer), (reader, its_writer) = os.pipe(), os.pipe()
    command = [str(program()), *FLAGS, f"--user-data-dir={profile}", "about:blank"]
    process = subprocess.Popen(
        ["bash", "-c", f'exec "$@" 3<&{its_reader} 4>&{its_writer}', "bash", *command],  # pipes under their numbers
        pass_fds=(its_reader, its_writer),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(its_reader)
    os.close(its_writer)
    try:
        running = Browser(reader, writer)
        yield running
        running.tell("Browser.close")
        process.wait(timeout=LOCK_TIMEOUT_S)
    finally:
        process.kill()
        process.wait()
        os.close(reader)
        os.close(writer)


def _url(where: str | Path) -> str:
    return where.absolute().as_uri() if isinstance(where, Path) else where


def _thrown(details: dict[str, Any]) -> str:
    return str(details.get("exception", {}).get("description") or details["text"])
