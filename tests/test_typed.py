"""The types of what people call first, as mypy reads them in a user's strict code."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from arlib import places, training

ROOT = Path(__file__).resolve().parents[1]


def test_the_package_says_that_it_is_typed():
    assert (places.PACKAGE / "py.typed").is_file()


def test_what_is_loaded_on_first_use_is_declared_for_type_checkers():
    light = {"Arm", "Recipe", "described", "learning_rate"}  # need no torch
    late = set(training.__all__) - light
    assert late == training._WHERE.keys()


@pytest.mark.slow
@pytest.mark.skipif(find_spec("mypy") is None, reason="mypy is not installed")
def test_strict_code_of_users_is_typed_throughout(tmp_path):
    words = ["--strict", "--follow-imports=silent", "--cache-dir", tmp_path]
    checked = subprocess.run(
        [sys.executable, "-m", "mypy", *words, "tests/typed/public.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
