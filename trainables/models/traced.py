"""A torchvision classifier seen through its own graph: stages, embedding and logits of a network that gives logits.

A stage ends at the last map of its resolution: square, no larger than the image, with only smaller maps after it, and
not made by pooling or dropout. What feeds the activation there is its pre-activation; a stage that ends without one
(a linear bottleneck) gives the same map twice. At 32x32 pixels networks for 224x224 end at 1x1.
"""

from __future__ import annotations

import operator
from collections import OrderedDict
from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names
from torchvision.ops.misc import Conv2dNormActivation

from trainables.contract import Outputs

ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.SiLU, nn.Hardswish, nn.GELU, nn.LeakyReLU, nn.ELU)
ACTIVATION_FUNCTIONS = {F.relu, torch.relu, F.relu6, F.silu, F.hardswish, F.gelu, "relu", "relu_"}
POOLS = (
    *(nn.AvgPool2d, nn.MaxPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d),
    *(nn.Dropout, nn.Dropout2d),
)
POOL_FUNCTIONS = {
    *(F.avg_pool2d, F.max_pool2d, F.adaptive_avg_pool2d, F.adaptive_max_pool2d, F.dropout),
    torch.max_pool2d,  # what the functional one turns into
}
SUMS = {operator.add, operator.iadd, torch.add, "add", "add_"}
RGB = 3


class Found(NamedTuple):
    """Names of nodes, and of modules."""

    logits: str
    embedding: str
    features: tuple[str, ...]
    preacts: tuple[str, ...]
    classifier: str
    norms: tuple[str | None, ...]


class Traced(nn.Module):
    """The network's graph, cut to give Outputs; one channel is shown three times."""

    def __init__(self, network: fx.GraphModule, found: Found) -> None:
        super().__init__()
        self.network = network
        self.found = found

    def forward(self, images: Tensor) -> Outputs:
        """Outputs for (B, 1 or 3, H, W) images."""
        if (
            self.network.training != self.training
        ):  # a copy of two graphs comes back in training mode
            self.network.train(self.training)
        nodes = self.network(_three(images))
        features, preacts = (
            tuple(nodes[name] for name in names)
            for names in (self.found.features, self.found.preacts)
        )
        embedding = nodes[self.found.embedding].flatten(1)
        return Outputs(nodes[self.found.logits], embedding, features, preacts)

    @property
    def classifier(self) -> nn.Module:
        """The last linear layer."""
        return self.network.get_submodule(self.found.classifier)

    @property
    def norms(self) -> tuple[nn.Module | None, ...]:
        """The BatchNorm2d that gives each pre-activation, alone or summed with a shortcut; None where there is none."""
        return tuple(name and self.network.get_submodule(name) for name in self.found.norms)  # type: ignore[misc]


def traced(network: nn.Module, channels: int, size: int) -> Traced:
    """The network cut at its stages for (channels, size, size) images; raises ValueError where it cannot be."""
    if channels not in (1, RGB):
        raise ValueError(f"networks of torchvision take 1 or 3 channels, got {channels}")
    network = _opened(network)
    images = _three(torch.zeros(2, channels, size, size))
    with torch.no_grad():
        network.eval()(images)  # a size that does not fit is told better here than by the graph
    in_train, in_eval = (
        names[1:] for names in get_graph_node_names(network, suppress_diff_warning=True)
    )
    probe = create_feature_extractor(
        network,
        train_return_nodes=in_train[-1:],
        eval_return_nodes=in_eval,
        suppress_diff_warning=True,
    ).eval()
    with torch.no_grad():
        values = probe(images)
    found = _found(probe, values, size)
    wanted = {found.logits, found.embedding, *found.features, *found.preacts}
    if not wanted <= set(in_train):
        raise ValueError("its stages must be the same in training as in evaluation")
    cut = create_feature_extractor(network, sorted(wanted), suppress_diff_warning=True)
    return Traced(_tidied(cut), found)


def _three(images: Tensor) -> Tensor:
    return images.expand(-1, RGB, -1, -1) if images.shape[1] == 1 else images


def _opened(network: nn.Module) -> nn.Module:
    """The network with torchvision's conv - norm - activation triples as plain sequences, which the tracer enters."""
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, Conv2dNormActivation):
                setattr(module, name, nn.Sequential(OrderedDict(child.named_children())))
    return network


def _tidied(cut: fx.GraphModule) -> fx.GraphModule:
    """The same without operations that overwrite a pre-activation, and as one graph where both modes agree."""
    for module in cut.modules():
        if getattr(module, "inplace", False):
            module.inplace = False  # type: ignore[assignment]
    for graph in (cut.train_graph, cut.eval_graph):
        for node in graph.nodes:  # type: ignore[union-attr]
            if node.kwargs.get("inplace"):
                node.update_kwarg("inplace", False)
            if node.target is operator.iadd:
                node.target = operator.add
    train, evaluation = (
        graph.python_code("self").src  # type: ignore[union-attr,operator]
        for graph in (cut.train_graph, cut.eval_graph)
    )
    if train == evaluation:  # the usual case; a graph of one mode is copied and pickled more safely
        return fx.GraphModule(cut, cut.eval_graph)  # type: ignore[arg-type]
    return cut.eval().train()  # either mode compiles its graph anew


def _found(probe: fx.GraphModule, values: Mapping[str, object], size: int) -> Found:
    (answer,) = next(node for node in probe.graph.nodes if node.op == "output").args
    nodes: dict[str, fx.Node] = answer
    names = {node: name for name, node in nodes.items()}
    logits, last = list(nodes.items())[-1]
    if last.op != "call_module" or not isinstance(_module(probe, last), nn.Linear):
        raise ValueError(f"it must end in a torch.nn.Linear, got {logits}")
    features = _stage_ends(probe, nodes, values, size)
    before = [_before_activation(probe, nodes[name]) for name in features]
    return Found(
        logits=logits,
        embedding=names[last.args[0]],  # type: ignore[index]
        features=features,
        preacts=tuple(names[node] for node in before),
        classifier=str(last.target),
        norms=tuple(_norm(probe, node) for node in before),
    )


def _stage_ends(
    probe: fx.GraphModule, nodes: Mapping[str, fx.Node], values: Mapping[str, object], size: int
) -> tuple[str, ...]:
    ends: list[str] = []
    largest_later = 0
    for name, node in reversed(list(nodes.items())):
        value = values[name]
        if not isinstance(value, Tensor) or value.ndim != 4 or value.shape[0] != 2:
            continue
        side = value.shape[2]
        if value.shape[3] != side or side > size or _is(probe, node, POOLS, POOL_FUNCTIONS):
            continue
        if side > largest_later:
            ends.append(name)
            largest_later = side
    return tuple(reversed(ends))


def _before_activation(probe: fx.GraphModule, node: fx.Node) -> fx.Node:
    first = node.args[0] if node.args else None
    if isinstance(first, fx.Node) and _is(probe, node, ACTIVATIONS, ACTIVATION_FUNCTIONS):
        return first
    return node


def _norm(probe: fx.GraphModule, node: fx.Node) -> str | None:
    candidates = node.args if _is(probe, node, (), SUMS) else (node,)
    for candidate in candidates:  # the residual branch comes first, then the shortcut
        if isinstance(candidate, fx.Node) and _is(probe, candidate, (nn.BatchNorm2d,), set()):
            return str(candidate.target)
    return None


def _is(
    probe: fx.GraphModule, node: fx.Node, modules: tuple[type[nn.Module], ...], functions: set
) -> bool:
    if node.op == "call_module":
        return isinstance(_module(probe, node), modules)
    return node.target in functions


def _module(probe: fx.GraphModule, node: fx.Node) -> nn.Module:
    return probe.get_submodule(str(node.target))
