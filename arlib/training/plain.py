"""Networks without batch norm, to act on: what a layer's weights say is then what the layer does.

With batch norm the size of a kernel's rows is a gauge: scaled rows and a changed γ give the same
network. An intervention on such weights would say nothing, so it acts on the folded network.
"""

import copy

import torch
from torch import nn

from arlib.engine import folding, trust
from arlib.engine.untouched import left_as_found
from arlib.errors import InputError


def plain(model: nn.Module, images: torch.Tensor) -> nn.Module:
    """A trainable copy in which every batch norm is folded into its convolution.

    Modules keep their names; a folded batch norm becomes an `nn.Identity` and its convolution gets
    a bias. The copy answers as the model does in eval mode, and is compared with it on `images`
    (n, …), outputs and gradients.

    Raises: `InputError` where a batch norm cannot be folded (it is named), or the copy differs.

    >>> import torch
    >>> net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten()).eval()
    >>> plain(net, torch.rand(4, 1, 3, 3))[1]
    Identity()
    """
    net = without_batchnorm(model)
    why, _ = trust.why_not(model, copy.deepcopy(net).eval(), images)
    if why:
        raise InputError(f"The network without batch norm is not the network: {why}.")
    return net


def without_batchnorm(model: nn.Module) -> nn.Module:
    """The copy that `plain` makes, without comparing it: to take weights that are loaded next."""
    with left_as_found(model):
        graph = folding.trace(model)
        pairs = folding.foldable_pairs(graph) if graph is not None else []
        net = copy.deepcopy(model)
    for conv_node, bn_node in pairs:
        conv, bn = net.get_submodule(conv_node.target), net.get_submodule(bn_node.target)
        # in float64: the folded weights are rounded once
        weight, bias = folding.folded_weight(conv, bn, torch.float64)
        conv.weight = nn.Parameter(weight.to(conv.weight))
        conv.bias = nn.Parameter(bias.to(conv.weight))
        parent, _, name = bn_node.target.rpartition(".")
        setattr(net.get_submodule(parent), name, nn.Identity())
    left = [name for name, module in net.named_modules() if isinstance(module, folding.BATCHNORMS)]
    if left:
        raise InputError(
            f"Batch norm {left[0]} cannot be folded into a convolution that it alone reads; "
            "interventions act on networks without batch norm."
        )
    return net.requires_grad_(True).eval()
