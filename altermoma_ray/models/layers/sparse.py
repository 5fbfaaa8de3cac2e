"""spconv, imported without what takes seconds and serves nobody.

spconv describes some 700 GPU kernels in a million small Python objects whenever it is imported. A machine without a GPU
asks for none of them, and the garbage collector need not go through them again and again while they are made.
"""

from __future__ import annotations

import gc
import os
import warnings

import torch

# A worker from which GPUs are hidden may be given one later, so that its tables must be whole.
_MAY_MEET_A_GPU = torch.cuda.is_available() or "CUDA_VISIBLE_DEVICES" in os.environ
_collects = gc.isenabled()
gc.disable()
try:
    with warnings.catch_warnings():  # spconv uses names that PyTorch has renamed since
        warnings.simplefilter("ignore", FutureWarning)
        from spconv import core

        if not _MAY_MEET_A_GPU:
            core.ALL_IMPGEMM_PARAMS, core.ALL_NATIVE_PARAMS = [], []
        from spconv import pytorch as spconv
        from spconv.core import ConvAlgo
        from spconv.pytorch.conv import SparseConvolution
finally:
    if _collects:
        gc.enable()

__all__ = ["ConvAlgo", "SparseConvolution", "spconv"]
