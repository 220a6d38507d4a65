"""The C library's allocator: what one pass frees, the next one needs again."""

import ctypes
import functools
import os
import platform

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # of mallopt, see malloc.h
KEEP = 2**30  # bytes
TUNED = ("GLIBC_TUNABLES", "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TOP_PAD_")


@functools.cache
def keep_memory() -> bool:
    """Let this process keep up to 1 GiB that it freed, instead of returning it after each pass;
    whether that was done.

    glibc returns the activations of a pass (megabytes each) to the system, which hands them out
    again page by page,
    zeroed: up to a quarter of the time of an attack on a CPU (a training soon teaches glibc
    better). Results do not change. It is the process that changes, so nothing here calls this but
    who owns one: the command line, benchmarks, or you. Other C libraries, and an allocator that the
    user tuned by its environment variables, are left as they are. A GPU's memory is torch's own
    affair.
    """
    if platform.libc_ver()[0] != "glibc" or any(name in os.environ for name in TUNED):
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(TRIM_THRESHOLD, KEEP)) and bool(mallopt(MMAP_THRESHOLD, KEEP))
