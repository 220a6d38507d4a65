"""Worked examples in docstrings are run."""

import doctest
import importlib

import pytest


@pytest.mark.parametrize("name", ["arlib.models", "arlib.spectra.conv", "arlib.report.comparison"])
def test_worked_examples_give_what_they_say(name):
    found = doctest.testmod(importlib.import_module(name))
    assert found.attempted and not found.failed
