"""On the way to a device, without waiting for it."""

import functools

import torch
from torch import Tensor

from cdal.errors import InputError


def named_device(name: str) -> torch.device:
    """The device of a command's --device.

    Raises:
        InputError: there is none of that name here.
    """
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError):
        raise InputError(f"--device is {name}, which PyTorch cannot use here; leave it out, or try cpu") from None
    return device


def to_device(tensor: Tensor, device: torch.device | str) -> Tensor:
    """A tensor of the CPU on the device, on its way while the CPU goes on: only pinned memory is read by a GPU on its own."""
    if torch.device(device).type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


@functools.lru_cache(maxsize=64)
def constants(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Numbers in float32 on a device, which they are brought to once."""
    with torch.inference_mode(False):
        return to_device(torch.tensor(values, dtype=torch.float32), device)
