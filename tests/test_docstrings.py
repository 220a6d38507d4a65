"""Worked examples in docstrings are run."""

import doctest
import importlib

import pytest

MODULES = (
    "arlib.attacks.evaluate",
    "arlib.attacks.pgd",
    "arlib.fields",
    "arlib.margins",
    "arlib.models",
    pytest.param("arlib.report.comparison", marks=pytest.mark.slow),  # two networks, all parts
    "arlib.smoothness.change",
    "arlib.spectra.conv",
    "arlib.spectra.model",
)


@pytest.mark.parametrize("name", MODULES)
def test_worked_examples_give_what_they_say(name):
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted and not result.failed
