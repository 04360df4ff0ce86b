"""Debian's chromium, driven as the W3C's WebDriver standard says (https://www.w3.org/TR/webdriver2/).

chromedriver speaks HTTP and JSON, and a handful of its commands is needed: `requests` is enough for that.
"""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import requests

from scripts.demo.shell import ClaimError, uninterrupted
from tests.services import Program
from tests.services.processes import find_program, wait_until

__all__ = ["Browser"]

WIDTH = 1280
"""Of the window and of each picture, in pixels."""
_HEIGHT = 800
_PHONE_WIDTH = 600
_COLOURS = "128"
"""In a picture: enough for text on white, at a third of the size."""
_COMMAND_SECONDS = 60
_SHOWN_SECONDS = 30
_INSTALL = "apt-get install chromium chromium-driver pngquant"
_OPTIONS = (
    "--headless=new",
    "--no-sandbox",  # root has none; it sees pages of this machine alone
    "--remote-debugging-pipe",  # it ends with its driver, however that ends
    "--disable-dev-shm-usage",  # containers have 64 MB there
    "--disable-gpu",
    "--disable-background-networking",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    "--hide-scrollbars",
    "--lang=en",
)


class Browser:
    """A browser without a window, in one tab.

    Args:
        folder: For its profile and output; made.
        stack: Ends it.
    """

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        driver = find_program("chromedriver", install=_INSTALL)
        program = find_program("chromium", install=_INSTALL)
        self._pngquant = find_program("pngquant", install=_INSTALL)
        folder.mkdir()
        with uninterrupted():
            running = Program([driver, "--port=0"], folder=folder, name="chromedriver")
            stack.callback(running.stop)
        port = running.wait_for(r"successfully on port (\d+)\.")[1]
        self._http = stack.enter_context(requests.Session())
        self._http.trust_env = False
        self._base = f"http://127.0.0.1:{port}/session"
        options = {"binary": program, "args": [*_OPTIONS, f"--user-data-dir={folder / 'profile'}"]}
        wanted = {"browserName": "chrome", "goog:chromeOptions": options}
        session = self._command("POST", "", {"capabilities": {"alwaysMatch": wanted}})
        self._base += f"/{session['sessionId']}"
        stack.callback(self._close)
        self.resize()

    @property
    def html(self) -> str:
        """The page as it stands now, after its scripts have run."""
        return str(self.run("return document.documentElement.outerHTML"))

    def open(self, url: str) -> None:
        """Open a page; returns when it and its parts are loaded."""
        self._command("POST", "/url", {"url": url})

    def run(self, script: str) -> Any:
        """Run the body of a JavaScript function in the page; returns what it returns."""
        return self._command("POST", "/execute/sync", {"script": script, "args": []})

    def wait_for(
        self, script: str, what: str, accept: Callable[[Any], bool] = bool, *, seconds: float = _SHOWN_SECONDS
    ) -> Any:
        """Wait until the page shows something.

        Args:
            script: Reads the page, as for `run`.
            what: What is waited for.
            accept: Says of what was read if it is that.
            seconds: The longest wait.

        Returns:
            What was read.

        Raises:
            ClaimError: The page does not show it in time.
        """
        read: list[Any] = [None]

        def shows() -> bool:
            read[0] = self.run(script)
            return accept(read[0])

        try:
            wait_until(shows, what, seconds=seconds)
        except TimeoutError:
            shown = json.dumps(read[0], ensure_ascii=False)[:500]
            raise ClaimError(f"the page never shows that {what}; it shows {shown}") from None
        return read[0]

    def draw(self, file: Path) -> None:
        """Write the whole page as a PNG."""
        bottom = self.run("return document.querySelector('main').getBoundingClientRect().bottom")
        self.resize(height=int(bottom))
        file.write_bytes(base64.b64decode(self._command("GET", "/screenshot")))
        colours = [self._pngquant, "--force", "--output", str(file), _COLOURS, "--", str(file)]
        subprocess.run(colours, check=True, timeout=_COMMAND_SECONDS)  # noqa: S603 - Debian's, found on the PATH
        self.resize()

    def log_in(self, user: str, password: str) -> None:
        """Send a login with every request from now on, whatever login the browser had."""
        login = base64.b64encode(f"{user}:{password}".encode()).decode()
        for command, options in (
            ("Network.enable", {}),
            ("Network.setExtraHTTPHeaders", {"headers": {"Authorization": f"Basic {login}"}}),
        ):
            self._command("POST", "/goog/cdp/execute", {"cmd": command, "params": options})

    def resize(self, width: int = WIDTH, height: int = _HEIGHT) -> None:
        """Set the size of what is seen; a command of Chrome's own, as the standard's counts the frame in."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < _PHONE_WIDTH}
        self._command(
            "POST", "/goog/cdp/execute", {"cmd": "Emulation.setDeviceMetricsOverride", "params": size}
        )

    def _close(self) -> None:
        with suppress(requests.RequestException, ClaimError):  # its driver may have ended
            self._command("DELETE", "")

    def _command(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """Send a command to the driver.

        Raises:
            ClaimError: The browser refuses it.
        """
        answer = self._http.request(method, self._base + path, json=body, timeout=_COMMAND_SECONDS)
        value = answer.json()["value"]
        if not answer.ok:
            raise ClaimError(f"chromium: {value['error']}: {value['message'].splitlines()[0]}")
        return value
