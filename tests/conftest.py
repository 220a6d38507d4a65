"""One thread per worker, no hurry for hypothesis, GPU tests only where there is a GPU."""

import pytest
import torch
from hypothesis import settings

torch.set_num_threads(1)
settings.register_profile("book", deadline=None, derandomize=True)
settings.load_profile("book")


def pytest_collection_modifyitems(items):
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="no CUDA device here"))
