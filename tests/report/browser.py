"""A headless Chromium driven over its debugging pipe, without a further package."""

import base64
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)
PATIENCE = 30.0


def find_browser() -> str | None:
    """The first browser that is installed."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Tab:
    """A page in the browser.

    Attributes:
        errors: what the console told of.
        requests: addresses asked for beyond the page itself.
        folder: where downloads go.
    """

    def __init__(self, browser: "Browser", session: str, folder: Path) -> None:
        self.browser = browser
        self.session = session
        self.folder = folder
        self.errors: list[str] = []
        self.requests: list[str] = []

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:  # noqa: ANN401
        return self.browser.call(method, session=self.session, **parameters)

    def open(self, path: Path) -> float:
        """Open a file; return the seconds until its script is done."""
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        start = time.perf_counter()
        self.call("Page.navigate", url=path.as_uri())
        self.wait("document.readyState === 'complete'")
        if self.run("!!document.getElementById('data')"):
            self.wait("document.documentElement.dataset.ready === 'yes'")
        seconds = time.perf_counter() - start
        self.requests = [url for url in self.requests if url != path.as_uri()]
        return seconds

    def run(self, code: str) -> Any:  # noqa: ANN401 any JSON
        """Evaluate an expression in the page."""
        found = self.call(
            "Runtime.evaluate", expression=code, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in found:
            raise AssertionError(f"{code}: {found['exceptionDetails']}")
        return found["result"].get("value")

    def wait(self, code: str) -> None:
        """Wait until an expression is true."""
        until(lambda: bool(self.run(code)), code)

    def resize(self, width: int, height: int = 900) -> None:
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )

    def prefer(self, scheme: str) -> None:
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", features=features)

    def centre(self, selector: str) -> tuple[float, float]:
        """Scroll an element into view and return its middle."""
        x, y = self.run(
            f"(() => {{ const e = document.querySelector({selector!r});"
            "e.scrollIntoView({block: 'center'}); const b = e.getBoundingClientRect();"
            "return [b.x + b.width / 2, b.y + b.height / 2]; })()"
        )
        return x, y

    def click(self, selector: str) -> None:
        self.drag(*[self.centre(selector)] * 2)

    def drag(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        for kind, (x, y), down in (
            ("mouseMoved", start, 0),
            ("mousePressed", start, 1),
            ("mouseMoved", end, 1),
            ("mouseReleased", end, 0),
        ):
            button = "none" if kind == "mouseMoved" and not down else "left"
            self.call(
                "Input.dispatchMouseEvent",
                type=kind,
                x=x,
                y=y,
                button=button,
                buttons=down,
                clickCount=1,
            )

    def press(self, key: str) -> None:
        codes = {"Enter": 13, "Escape": 27, "ArrowLeft": 37, "ArrowUp": 38}
        codes |= {"ArrowRight": 39, "ArrowDown": 40, "Tab": 9}
        more: dict[str, Any] = {"windowsVirtualKeyCode": codes.get(key, 0)}
        if key == "Enter":
            more["text"] = "\r"
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, **more)

    def downloaded(self, name: str) -> bytes:
        """Wait for a download of a name."""
        path = self.folder / name
        until(path.exists, f"download of {name}")
        return path.read_bytes()

    def screenshot(self, path: Path, *, whole: bool = False) -> None:
        found = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(found["data"]))


class Browser:
    """Headless Chromium; one pipe for commands, one for answers and events."""

    def __init__(self, path: str, profile: Path) -> None:
        command_out, command_in = os.pipe()
        answer_out, answer_in = os.pipe()

        def connect() -> None:
            # above 4 first, as the descriptors to be replaced may be among these
            first, second = os.dup(command_out), os.dup(answer_in)
            os.dup2(first, 3)
            os.dup2(second, 4)

        self.process = subprocess.Popen(
            [path, *FLAGS, f"--user-data-dir={profile}", "about:blank"],
            preexec_fn=connect,  # the browser wants descriptors 3 and 4
            pass_fds=(3, 4),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(command_out)
        os.close(answer_in)
        self.commands = command_in
        self.answers = answer_out
        self.rest = b""
        self.number = 0
        self.tabs: dict[str, Tab] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait()
        os.close(self.commands)
        os.close(self.answers)

    def call(
        self,
        method: str,
        *,
        session: str | None = None,
        **parameters: Any,  # noqa: ANN401
    ) -> dict[str, Any]:
        """Send a command and wait for its answer; note events on the way."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters}
        if session:
            message["sessionId"] = session
        os.write(self.commands, json.dumps(message).encode() + b"\0")
        while True:
            found = self._read()
            if found.get("id") == self.number:
                if "error" in found:
                    raise AssertionError(f"{method}: {found['error']}")
                result: dict[str, Any] = found["result"]
                return result
            self._note(found)

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self.rest:
            chunk = os.read(self.answers, 2**20)
            if not chunk:
                raise AssertionError("the browser ended")
            self.rest += chunk
        message, _, self.rest = self.rest.partition(b"\0")
        found: dict[str, Any] = json.loads(message)
        return found

    def _note(self, event: dict[str, Any]) -> None:
        tab = self.tabs.get(event.get("sessionId", ""))
        if tab is None:
            return
        told = event["params"]
        if event["method"] == "Runtime.exceptionThrown":
            tab.errors.append(json.dumps(told["exceptionDetails"]))
        elif event["method"] == "Log.entryAdded" and told["entry"]["level"] in ("error", "warning"):
            tab.errors.append(told["entry"]["text"])
        elif event["method"] == "Runtime.consoleAPICalled" and told["type"] in ("error", "warning"):
            tab.errors.append(json.dumps(told["args"]))
        elif event["method"] == "Network.requestWillBeSent":
            address = told["request"]["url"]
            if not address.startswith(("data:", "blob:")):
                tab.requests.append(address)

    @contextmanager
    def tab(self, folder: Path) -> Iterator[Tab]:
        """A new page, whose downloads go to a folder."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        found = self.call("Target.attachToTarget", targetId=target, flatten=True)
        tab = self.tabs[found["sessionId"]] = Tab(self, found["sessionId"], folder)
        self.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(folder))
        yield tab
        self.call("Target.closeTarget", targetId=target)


def until(condition: Callable[[], bool], what: str) -> None:
    """Wait until something holds."""
    end = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"waited {PATIENCE:g} s in vain: {what}")
        time.sleep(0.02)
