"""Environments of their own for what must not mix with the packages under test.

    python tests/environments.py peers     # other libraries, for cross-checks and benchmarks
    python tests/environments.py lab-8     # a notebook client (clients/NAME.txt); some 200 MB

Each prints the interpreter to use. Peers and kernels see this environment's packages behind their
own, by a .pth file, so that nothing large is installed twice and nothing here changes.
A client holds no torch: it only shows what a kernel sends.
"""

import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

from filelock import FileLock

ROOT = Path(__file__).resolve().parents[1]


class Unavailable(RuntimeError):
    """An environment could not be made; the message says why."""


def python(name: str) -> Path:
    """The interpreter of an environment, made if it is missing or out of date.

    name: "peers", or that of a file in `tests/clients`. Of several processes that ask for the same
    one, the first makes it and the others wait.
    """
    (ROOT / ".venv-clients").mkdir(exist_ok=True)
    with FileLock(ROOT / ".venv-clients" / f"{name}.lock"):
        return _made(name)


def _made(name: str) -> Path:
    home, requirements = _places(name)
    interpreter, done = home / "bin" / "python", home / "installed.txt"
    wanted = f"{sys.version}\n{requirements.read_text()}"
    if done.exists() and done.read_text() == wanted:
        return interpreter
    venv.EnvBuilder(clear=True, with_pip=False, symlinks=True).create(home)
    options = ["--quiet"]
    if name == "peers" or name.startswith("kernel"):
        (site,) = home.glob("lib/python*/site-packages")
        (site / "main.pth").write_text(f"{sysconfig.get_paths()['purelib']}\n{ROOT}\n")
        options.append("--no-deps")
    pip = [sys.executable, "-m", "pip", "--python", str(interpreter), "install", *options]
    try:
        subprocess.run(
            [*pip, "-r", str(requirements)], check=True, capture_output=True, text=True, timeout=900
        )
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"{name} could not be installed: {_last_line(error)}") from error
    done.write_text(wanted)
    return interpreter


def _places(name: str) -> tuple[Path, Path]:
    """Where an environment lies, and the file that says what is in it."""
    if name == "peers":
        return ROOT / ".venv-peers", ROOT / "requirements-benchmarks.txt"
    return ROOT / ".venv-clients" / name, ROOT / "tests" / "clients" / f"{name}.txt"


def _last_line(error: subprocess.CalledProcessError | subprocess.TimeoutExpired) -> str:
    output = error.stderr or ""
    text = output.decode(errors="replace") if isinstance(output, bytes) else output
    return (text.strip().splitlines() or [str(error)])[-1]


if __name__ == "__main__":
    for each in sys.argv[1:]:
        print(python(each))
