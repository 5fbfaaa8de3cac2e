"""spconv's tables of GPU kernels are left out where no GPU can come, and only there."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

CODE = "import altermoma_ray.models.layers.sparse, spconv.algo; print(len(spconv.algo.CONV.all_desps))"


def kernels(**changes):
    environment = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"} | changes
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", CODE], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def test_a_worker_that_may_be_given_a_gpu_later_has_all_kernels():
    assert kernels(CUDA_VISIBLE_DEVICES="") > 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_machine_without_a_gpu_describes_no_kernels():
    assert kernels() == 0
