import os
import subprocess
import sys

import pytest

from arlib.engine import memory

PASSES = """
import resource, torch
from arlib import attacks, engine, models
model, x, y = models.resnet(20), torch.rand(64, 3, 32, 32), torch.zeros(64, dtype=torch.int64)
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
attack = lambda: attacks.pgd(model, x, y, eps=0.03, steps=1)
told = engine.keep_memory()
attack(), attack()
before = faults()
attack()
print(faults() - before, told)
"""


def page_faults(**environment: str) -> tuple[int, bool]:
    """Pages that the system handed out during a third pass (4 kB each),
    and whether the allocator was told to keep.
    """
    clean = {name: value for name, value in os.environ.items() if name not in memory.TUNED}
    run = [sys.executable, "-c", PASSES]
    process = subprocess.run(
        run, env=clean | environment, capture_output=True, text=True, check=True
    ).stdout.split()
    return int(process[0]), process[1] == "True"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_a_pass_finds_the_memory_of_the_last_one():
    kept, told = page_faults()
    if not told:
        pytest.skip("another C library")
    returned, _ = page_faults(MALLOC_TRIM_THRESHOLD_="1000000", MALLOC_MMAP_THRESHOLD_="1000000")
    assert kept < returned / 10


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_an_allocator_that_the_user_tuned_is_left_alone():
    assert page_faults(MALLOC_TRIM_THRESHOLD_="1000000")[1] is False
