"""A notebook client on loopback, driven by a browser as a reader would:
open, run all, drag, press, look.
"""

import json
import os
import secrets
import shutil
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

from environments import python

# Lab asks for news and updates, which nobody here can answer.
QUIET = {"fetchNews": "false", "checkForUpdates": False}


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def kernelspec(folder: Path, interpreter: Path | str, **environment: str) -> None:
    """A kernel `python3`, the name that chapters have, which is that interpreter."""
    spec = {
        "argv": [str(interpreter), "-m", "ipykernel_launcher", "-f", "{connection_file}"],
        "display_name": "Python 3", "language": "python", "env": environment,
    }  # fmt: skip
    (folder / "kernels" / "python3").mkdir(parents=True)
    (folder / "kernels" / "python3" / "kernel.json").write_text(json.dumps(spec))


class Server:
    """A client's server: its own folders, a token, no network but loopback."""

    def __init__(
        self, environment: str, application: str, home: Path, interpreter: Path | str, **kernel: str
    ):
        """environment: whose client; application: a module of it (`jupyterlab`);
        interpreter: the kernel's.
        """
        self.home, self.work = home, home / "work"
        self.work.mkdir(parents=True)
        kernelspec(home / "path", interpreter, **kernel)
        if application == "jupyterlab":
            settings = home / "settings" / "@jupyterlab" / "apputils-extension"
            settings.mkdir(parents=True)
            (settings / "notification.jupyterlab-settings").write_text(json.dumps(QUIET))
        self.token, port = secrets.token_hex(16), free_port()
        self.url = f"http://127.0.0.1:{port}"
        kept = {
            k: v
            for k, v in os.environ.items()
            if not k.startswith(("PYTHON", "JUPYTER", "IPYTHON"))
        }
        own = {
            "JUPYTER_PATH": home / "path",
            "JUPYTER_CONFIG_DIR": home / "config",
            "JUPYTER_DATA_DIR": home / "data",
            "JUPYTER_RUNTIME_DIR": home / "runtime",
            "IPYTHONDIR": home / "ipython",
            "JUPYTERLAB_SETTINGS_DIR": home / "settings",
            "JUPYTERLAB_WORKSPACES_DIR": home / "workspaces",
        }
        classic = environment == "notebook-6"
        app, root = ("NotebookApp", "notebook_dir") if classic else ("ServerApp", "root_dir")
        command = [python(environment), "-m", application, "--no-browser", "--allow-root"]
        command += [
            "--ip=127.0.0.1",
            f"--port={port}",
            f"--{app}.token={self.token}",
            f"--{app}.{root}={self.work}",
        ]
        self.log = home / "server.log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                list(map(str, command)),
                cwd=self.work,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env=kept | {name: str(folder) for name, folder in own.items()},
            )
        self._wait()

    def _wait(self) -> None:
        for _ in range(240):
            try:
                return self.ask("/api/status")
            except OSError:
                if self.process.poll() is not None:
                    break
                time.sleep(0.5)
        raise RuntimeError(f"the client did not start:\n{self.log.read_text()[-3000:]}")

    def ask(self, path: str, method: str = "GET"):
        request = urllib.request.Request(
            self.url + path, headers={"Authorization": f"token {self.token}"}, method=method
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.loads(answer.read() or "null")

    def kernels(self) -> list[dict]:
        return self.ask("/api/kernels")

    def stop_kernels(self) -> None:
        for kernel in self.kernels():
            self.ask(f"/api/kernels/{kernel['id']}", "DELETE")

    def close(self) -> None:
        self.stop_kernels()
        self.process.terminate()
        self.process.wait(30)


class Lab:
    """JupyterLab: where things are in it, and how a reader reaches them."""

    path, cell = "/lab/tree/", ".jp-Notebook .jp-Cell"
    scrolled = ".jp-WindowedPanel-outer"
    # What a client logs as an error whatever is opened in it, and where that comes from.
    allowed: tuple[str, ...] = (
        # ipywidgets 7 asks for MathJax 2 to set its labels; JupyterLab 4 has another
        "reading 'Queue'",
    )

    def __init__(self, server: Server, browser, notebook: Path):
        self.server, self.name = server, notebook.name
        shutil.copy(notebook, server.work)
        self.complaints: list[str] = []
        self.page = browser.new_page(viewport={"width": 1400, "height": 1000})
        self.page.set_default_timeout(60_000)  # ms: a machine that also trains is slow
        self.page.on("console", self._logged)
        self.page.on("pageerror", lambda error: self._said(f"error: {error.stack or error}"))
        self.page.goto(
            f"{server.url}{self.path}{self.name}?token={server.token}", wait_until="load"
        )
        self.page.wait_for_selector(self.cell)
        self._until(lambda: self.states() == ["idle"], 120)

    def _logged(self, message) -> None:
        if message.type == "error":
            self._said(f"{message.text} ({message.location['url']})")

    def _said(self, text: str) -> None:
        if not any(own in text for own in self.allowed):
            self.complaints.append(text)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.page.close()
        self.server.stop_kernels()

    def states(self) -> list[str]:
        try:
            return [kernel["execution_state"] for kernel in self.server.kernels()]
        except OSError:  # the server cannot say while a kernel starts
            return []

    def _until(self, reached, seconds: float, message: str = "") -> None:
        end = time.monotonic() + seconds
        while not reached():
            if time.monotonic() > end:
                raise TimeoutError(
                    message or f"after {seconds} s: kernels {self.states()}, {self.complaints}"
                )
            self.page.wait_for_timeout(250)

    def run_all(self, seconds: float = 600) -> dict:
        """Run all cells by the menu; the notebook as the client then saves it."""
        self._press_run_all()
        self.finish(seconds)
        return self.saved()

    def _press_run_all(self) -> None:
        self.page.get_by_role("menuitem", name="Run", exact=True).click()
        self.page.get_by_role("menuitem", name="Run All Cells", exact=True).click()

    def finish(self, seconds: float = 120) -> None:
        """Wait until the kernel was idle for two seconds:
        between two cells it is for a moment only.
        """
        self.page.wait_for_timeout(1000)
        idle = [time.monotonic()]

        def rests() -> bool:
            if self.states() != ["idle"]:
                idle[0] = time.monotonic()
            return time.monotonic() - idle[0] > 2

        self._until(rests, seconds)

    def saved(self) -> dict:
        file, before = (
            self.server.work / self.name,
            (self.server.work / self.name).stat().st_mtime_ns,
        )
        self.page.keyboard.press("Escape")
        self.page.keyboard.press("Control+s")
        self._until(
            lambda: file.stat().st_mtime_ns != before, 30, "the client did not save the notebook"
        )
        self.page.wait_for_timeout(500)
        return json.loads(file.read_text(encoding="utf-8"))

    def find(self, selector: str, index: int = 0):
        """Scroll down through the notebook until the thing is there, and into view;
        clients draw what is near only.
        """
        element = self.page.locator(selector)
        self._top()
        for _ in range(400):
            if element.count() > index and element.nth(index).is_visible():
                element.nth(index).scroll_into_view_if_needed()
                self.page.wait_for_timeout(300)
                return element.nth(index)
            self.page.mouse.wheel(0, 600)
            self.page.wait_for_timeout(60)
        raise LookupError(f"{self.name} shows no {selector}")

    def _top(self) -> None:
        self.page.evaluate(
            "s => document.querySelectorAll(s).forEach(e => {e.scrollTop = 0})", self.scrolled
        )
        self.page.mouse.move(700, 600)
        self.page.wait_for_timeout(500)

    def drag(self, handle, by: int) -> None:
        """Drag a slider's handle to the side with the mouse."""
        box = handle.bounding_box()
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        self.page.mouse.move(x, y)
        self.page.mouse.down()
        for step in range(1, 6):
            self.page.mouse.move(x + by * step / 5, y)
        self.page.mouse.up()
        self.page.wait_for_timeout(300)

    def picture(self, name: str) -> None:
        """Keep a screenshot where `ARLIB_SCREENSHOTS` says, if it does."""
        if folder := os.environ.get("ARLIB_SCREENSHOTS"):
            Path(folder).mkdir(parents=True, exist_ok=True)
            self.page.screenshot(path=Path(folder) / f"{name}.png")


class Notebook7(Lab):
    path = "/notebooks/"
    # in notebook_core.js, when a settings plugin of JupyterLab is not in Notebook
    allowed = ("reading 'schema'",)


class Notebook6(Lab):
    path, cell, scrolled = "/notebooks/", "#notebook .cell", "#site"
    # fonts that its MathJax looks for before it has loaded its own
    allowed = ("/MathJax/fonts/", "about:blank")

    def _press_run_all(self) -> None:
        self.page.locator("#celllink").click()
        self.page.locator("#run_all_cells").click()
