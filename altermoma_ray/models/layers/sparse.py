"""A quick import of spconv: on a machine without a GPU, without the descriptions of its GPU kernels.

spconv describes some 700 GPU kernels in a million small Python objects at every import, which takes seconds. A machine
without a GPU needs none of these objects. While they are made, the garbage collector would walk through them again and
again; the collector is therefore switched off during the import.
"""

from __future__ import annotations

import gc
import os
import warnings

import torch

# A worker from which GPUs are hidden may be given one later; its tables must be whole.
_MAY_MEET_A_GPU = torch.cuda.is_available() or "CUDA_VISIBLE_DEVICES" in os.environ
_collects = gc.isenabled()
gc.disable()
try:
    with warnings.catch_warnings():  # spconv uses names which PyTorch has since renamed
        warnings.simplefilter("ignore", FutureWarning)
        from spconv import core

        # spconv.core makes the tables cheaply; spconv.pytorch, imported below, makes an object of each entry.
        if not _MAY_MEET_A_GPU:
            core.ALL_IMPGEMM_PARAMS, core.ALL_NATIVE_PARAMS = [], []
        from spconv import pytorch as spconv
        from spconv.core import ConvAlgo
        from spconv.pytorch.conv import SparseConvolution
finally:
    if _collects:
        gc.enable()

__all__ = ["ConvAlgo", "SparseConvolution", "spconv"]
