"""Make `.venv-clients/`: the notebook clients that readers have,
and a kernel with Colab's ipywidgets.

    python tests/clients/environment.py lab-8      # prints the interpreter; a minute, some 200 MB

A client runs in an environment of its own, which holds no torch: it only shows what a kernel sends.
The kernel is this environment's Python; for ipywidgets 7 it is one that sees the packages of this
environment behind its own.
"""

import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
FOLDER = ROOT / ".venv-clients"


class Unavailable(RuntimeError):
    """An environment could not be made; the message says why."""


def python(name: str) -> Path:
    """The interpreter of the environment of `NAME.txt` here,
    made if it is missing or out of date.
    """
    home, requirements = FOLDER / name, HERE / f"{name}.txt"
    interpreter, done = home / "bin" / "python", home / "installed.txt"
    wanted = f"{sys.version}\n{requirements.read_text()}"
    if done.exists() and done.read_text() == wanted:
        return interpreter
    venv.EnvBuilder(clear=True, with_pip=False, symlinks=True).create(home)
    pip = [sys.executable, "-m", "pip", "--python", str(interpreter), "install", "--quiet"]
    if name.startswith("kernel"):
        (site,) = home.glob("lib/python*/site-packages")
        (site / "main.pth").write_text(f"{sysconfig.get_paths()['purelib']}\n{ROOT}\n")
        pip.append("--no-deps")
    try:
        subprocess.run(
            [*pip, "-r", str(requirements)], check=True, capture_output=True, text=True, timeout=900
        )
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        output = error.stderr or ""
        last = (
            (output.decode(errors="replace") if isinstance(output, bytes) else output)
            .strip()
            .splitlines()[-1:]
        )
        raise Unavailable(f"{name} could not be installed: {' '.join(last) or error}") from error
    done.write_text(wanted)
    return interpreter


if __name__ == "__main__":
    for each in sys.argv[1:]:
        print(python(each))
