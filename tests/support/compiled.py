"""Compiles the kernels for GPUs that are not there; fails where one does not compile, or keeps numbers outside of registers."""

import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.runtime import JITFunction, driver

from cdal.devices import kernels, norm_kernels

RESOURCES = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"


class Absent:
    """The driver of a GPU, whose number is its architecture's."""

    def __init__(self, architecture: int) -> None:
        self._architecture = architecture

    def get_current_device(self) -> int:
        return self._architecture

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self._architecture, 32)


def compile_only(self: JITFunction, *arguments: Any, grid: object, warmup: bool, **keywords: Any) -> None:
    """In the place of a launch."""
    compiled = run(self, *arguments, grid=grid, warmup=True, **keywords)
    told = f"{self.__name__} for sm{compiled.metadata.target.arch}"
    if RESOURCES.is_file():
        with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
            file.write(compiled.asm["cubin"])
            file.flush()
            output = subprocess.run(
                [RESOURCES, "--dump-resource-usage", file.name], capture_output=True, text=True, check=True
            ).stdout
        found = re.search(r"REG:(\d+) STACK:(\d+) .*LOCAL:(\d+)", output)
        assert found is not None, output
        assert found[2] == found[3] == "0", f"{told} spills: {found[0]}"
        told += f": {found[1]} registers"
    sys.stdout.write(told + "\n")


def empty(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def group_norm(x: Tensor, groups: int, scale: Tensor, shift: Tensor, silu: bool, add: Tensor | None) -> None:
    y, moments = norm_kernels._group_norm(x, groups, scale, shift, 1e-6, silu, add)
    norm_kernels._group_norm_backward(y, x, moments, groups, scale, shift, silu, None if add is None else x)


run = JITFunction.run
JITFunction.run = compile_only
for architecture in (80, 90):
    driver.set_active(Absent(architecture))
    group_norm(empty(4, 64, 256, 256), 16, *empty(4, 128).chunk(2, dim=1), True, empty(4, 64))
    kernels._fir(empty(4, 64, 256, 256), empty(4, 64, 256, 256), 1, 2, 1, [128, 128], 1.0)
    kernels._sum(empty(4, 64, 256, 256), empty(4, 64, 256, 256), empty(64), 0.5, 1.0)
group_norm(empty(128, 96, 32, 32, dtype=torch.float32), 24, *empty(2, 96, dtype=torch.float32), False, None)
group_norm(empty(128, 64, 32, 32), 16, *empty(128, 128).chunk(2, dim=1), True, None)
group_norm(empty(128, 512, 4, 4), 32, *empty(128, 1024).chunk(2, dim=1), True, empty(128, 512))
kernels._fir(empty(128, 3, 32, 32), None, 1, 1, 2, [33, 33], 1.0)
kernels._fir(empty(4, 64, 257, 257), None, 1, 1, 1, [256, 256], 1.0)
kernels._fir(empty(4, 512, 8, 8, dtype=torch.float32), None, 2, 1, 2, [16, 16], 1.0)
kernels._sum(empty(4, 64, 256, 256, dtype=torch.float32), None, empty(4, 64, dtype=torch.float32), 1.0, 0.2)
kernels._sum_backward(empty(4, 64, 256, 256), empty(4, 64, 256, 256), None, 0.5, 0.2, 512, torch.bfloat16)
kernels._sum_backward(empty(128, 512, 8, 8, dtype=torch.float32), None, None, 0.5, 1.0, 512, torch.float32)
kernels._sum_backward(empty(128, 256, 8, 8), empty(128, 256, 8, 8), empty(128, 256, 8, 8), 1.0, 0.2, 0, torch.bfloat16)
