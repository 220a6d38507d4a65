"""Make `.venv-peers`: the libraries of requirements-benchmarks.txt beside the torch
of this environment.

    python tests/crosscheck/environment.py     # prints the interpreter to use; some seconds, a few
    MB

The peers are installed without their dependencies; a .pth file lets the new environment see this
one's packages and the checkout, so that nothing large is installed twice and nothing here changes.
"""

import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / ".venv-peers"
REQUIREMENTS = ROOT / "requirements-benchmarks.txt"


class Unavailable(RuntimeError):
    """The peers could not be installed; the message says why."""


def python() -> Path:
    """The interpreter of the peers' environment, made if it is missing or out of date."""
    interpreter, done = FOLDER / "bin" / "python", FOLDER / "installed.txt"
    wanted = f"{sys.version}\n{REQUIREMENTS.read_text()}"
    if done.exists() and done.read_text() == wanted:
        return interpreter
    venv.EnvBuilder(clear=True, with_pip=False, symlinks=True).create(FOLDER)
    (site,) = FOLDER.glob("lib/python*/site-packages")
    (site / "main.pth").write_text(f"{sysconfig.get_paths()['purelib']}\n{ROOT}\n")
    pip = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        str(interpreter),
        "install",
        "--quiet",
        "--no-deps",
    ]
    try:
        subprocess.run(
            [*pip, "-r", str(REQUIREMENTS)], check=True, capture_output=True, text=True, timeout=300
        )
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        output = error.stderr or ""
        last = (
            (output.decode(errors="replace") if isinstance(output, bytes) else output)
            .strip()
            .splitlines()[-1:]
        )
        raise Unavailable(f"the peers could not be installed: {' '.join(last) or error}") from error
    done.write_text(wanted)
    return interpreter


if __name__ == "__main__":
    print(python())
