"""The machine under the science: devices, precision, and networks prepared for many passes.

An attack asks one network for thousands of input gradients in eval mode. There, a batch norm
that alone reads a convolution's output is a scale and a shift, so it folds exactly into the
convolution; with channels_last memory this is about 1.6 times as fast on a CPU. Compilation, CUDA
graphs and bfloat16 are further layers on the same code path, each asked for by name.
"""

from arlib.engine.datasets import Streamed, digest_of, streamed
from arlib.engine.devices import device, fastest_kernels
from arlib.engine.folding import folded_weight
from arlib.engine.given import device_of, digest, dtype_of, images_and_labels, logits_of
from arlib.engine.graphs import Captured
from arlib.engine.machine import MODES, PRECISIONS, Machine, settle
from arlib.engine.memory import keep_memory
from arlib.engine.prepared import Prepared, batchnorm_of, frozen, prepare, unwrapped
from arlib.engine.untouched import left_as_found

__all__ = [
    "MODES",
    "PRECISIONS",
    "Captured",
    "Machine",
    "Prepared",
    "Streamed",
    "batchnorm_of",
    "device",
    "device_of",
    "digest",
    "digest_of",
    "dtype_of",
    "fastest_kernels",
    "folded_weight",
    "frozen",
    "images_and_labels",
    "keep_memory",
    "left_as_found",
    "logits_of",
    "prepare",
    "settle",
    "streamed",
    "unwrapped",
]
