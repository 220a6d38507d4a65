"""The average of a network's weights along its training (Izmailov et al. 2018; Gowal et al. 2020,
section 4.5).

`torch.optim.swa_utils.AveragedModel` asks the device at every update whether it is the first one
(torch 2.6 to 2.11); this counts on the host. The averaging itself is torch's.
"""

import copy

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from arlib.errors import RecordError


class Average:
    """An exponential moving average of weights and batch norm's running statistics, in eval mode.

    After update t = 1, 2, … the average is d·average + (1 − d)·weights with d = min(decay, t / (9 +
    t)): the start is forgotten even where the training has fewer steps than 1 / (1 − decay). The
    running means and variances are averaged with the same d, so that they are of the weights' age,
    and cost no pass over the data; they are exact only where activations depend linearly on the
    weights. Counters are copied.

    module: the averaged network, eval mode, no gradients; it starts as a copy of `model`.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.decay, self.updates = decay, 0
        self.module = copy.deepcopy(model).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take in the network's present state, after each optimiser step.
        Never waits for the device.
        """
        self.updates += 1
        decay = min(self.decay, self.updates / (9 + self.updates))
        pairs = [
            (mine, theirs.detach())
            for mine, theirs in zip(_state(self.module), _state(model), strict=True)
        ]
        floating = [pair for pair in pairs if pair[0].is_floating_point()]
        get_ema_multi_avg_fn(decay)(*map(list, zip(*floating, strict=True)), None)
        for mine, theirs in pairs:
            if not mine.is_floating_point():
                mine.copy_(theirs)

    def state_dict(self) -> dict[str, Tensor]:
        """The averaged network's state and, as "updates",
        how often it was updated: tensors only.
        """
        return {**self.module.state_dict(), "updates": torch.tensor(self.updates)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from `state_dict()`; `RecordError` if it is of another network."""
        weights = {name: value for name, value in state.items() if name != "updates"}
        try:
            self.module.load_state_dict(weights)
            self.updates = int(state["updates"])
        except (KeyError, RuntimeError) as error:
            raise RecordError(f"the averaged weights are not of this network: {error}") from error


def _state(model: nn.Module) -> list[Tensor]:
    """Parameters and buffers by place, since a compiled network's names differ."""
    return [*model.parameters(), *model.buffers()]
