"""Adam whose state survives a checkpoint, and which a CUDA graph can hold."""

import inspect

import torch
from torch import Tensor, nn

from cdal import checkpoint


class Adam(torch.optim.Adam):
    """PyTorch's fused Adam for a network (Kingma and Ba 2015): all weights at once, in the order of `network.named_parameters()`.

    It comes without the hooks for `torch.compile`, which nothing here calls, and which takes as long to import as all of torch.
    """

    add_param_group = inspect.unwrap(torch.optim.Adam.add_param_group)
    zero_grad = inspect.unwrap(torch.optim.Adam.zero_grad)
    state_dict = inspect.unwrap(torch.optim.Adam.state_dict)
    load_state_dict = inspect.unwrap(torch.optim.Adam.load_state_dict)
    step = torch.no_grad()(inspect.unwrap(torch.optim.Adam.step))

    def __init__(self, network: nn.Module, rate: float, betas: tuple[float, float]) -> None:
        self._names = [name for name, _ in network.named_parameters()]
        device = next(network.parameters()).device
        on_gpu = device.type == "cuda"
        super().__init__(network.parameters(), rate, betas, fused=True, capturable=on_gpu)
        if on_gpu:  # a graph would keep a number for ever
            self.param_groups[0]["lr"] = torch.full((), rate, device=device)

    def set_rate(self, rate: float) -> None:
        """Learning rate of the steps to come."""
        group = self.param_groups[0]
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate

    def tensors(self) -> dict[str, Tensor]:
        """Both moments and the number of steps of every weight that was updated, by names like `conv1.weight.exp_avg`."""
        weights = self.param_groups[0]["params"]
        return {
            f"{name}.{key}": value
            for name, weight in zip(self._names, weights, strict=True)
            for key, value in self.state.get(weight, {}).items()
        }

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Take up what `tensors` gave."""

        def laid_out(value: Tensor, weight: Tensor) -> Tensor:  # it walks through memory, not through indices
            return torch.empty_like(weight).copy_(value) if value.shape == weight.shape else value

        states = {
            number: {key: laid_out(value, weight) for key, value in checkpoint.unprefixed(tensors, f"{name}.").items()}
            for number, (name, weight) in enumerate(zip(self._names, self.param_groups[0]["params"], strict=True))
            if f"{name}.step" in tensors
        }
        self.load_state_dict({"state": states, "param_groups": self.state_dict()["param_groups"]})
