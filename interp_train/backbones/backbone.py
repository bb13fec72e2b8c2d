"""`Backbone`: the network that a learning system owns, with named layers.

A backbone is a chain of steps that keep a map of cells, followed by a readout (the network's own
classifier) or by a head. Its state-dict keys are those of the network it was made from.
"""

from collections.abc import Mapping
from typing import Any, final

from torch import Tensor, nn

from interp_train.backbones.chains import opened
from interp_train.backbones.parameter_groups import parameter_groups
from interp_train.backbones.readout import pooled_linear, resize_last_linear
from interp_train.backbones.tap_aliases import aliases_by_stride
from interp_train.backbones.weights import hash_of_modules
from interp_train.checks import check_name, check_range, closest
from interp_train.layer_geometry import (
    LayerTrace,
    geometry_of,
    grid_of,
    has_square_map,
    measure_geometry,
    trace_layers,
)
from interp_train.structures import LayerGeometry


@final
class Backbone(nn.Module):
    """A chain of steps with tap aliases, an optional frozen prefix, and a readout or a head.

    The frozen prefix has no gradients on its weights and keeps its evaluation statistics in every
    mode. Gradients with respect to the images still pass through it, for heatmaps; without them
    it costs no memory for a backward pass.

    Attributes:
        taps: alias -> dotted module name. Always ``top`` (the last layer of the chain before a
            final pooling) and ``last`` (of chain and head together).
        chain: dotted names of the steps that keep a map of cells, in order.
        readout: dotted names of the steps from the last map to the logits; empty without a
            classifier.
        prefix: dotted name of the last frozen step, or None.
        has_head: whether a head stands in the place of the readout.

    Args:
        chain: ordered steps, dotted name -> module.
        classifier: what follows the chain: a module (registered as ``classifier``), or ordered
            steps, dotted name -> module; None if a head or `resize_classifier` will follow.
        taps: aliases for dotted names, besides the automatic ``early``, ``mid``, ``top`` of
            `aliases_by_stride`. Entries whose layer was cut off are left out.
        cut: alias or dotted name of the last step that is kept; the classifier goes with the
            rest. None keeps all.
        freeze: alias or dotted name of the last frozen step. None freezes nothing.
        learning_rates: prefix of dotted names -> multiplier, for `parameter_groups`.
        image_size: side of the images with which layers are looked up, in pixels.
        in_channels: of the images.

    Raises:
        ValueError: if `cut` or `freeze` names no step, or a step's name is taken by an attribute.
    """

    def __init__(
        self,
        chain: Mapping[str, nn.Module],
        *,
        classifier: nn.Module | Mapping[str, nn.Module] | None = None,
        taps: Mapping[str, str] | None = None,
        cut: str | None = None,
        freeze: str | None = None,
        learning_rates: Mapping[str, float] | None = None,
        image_size: int = 224,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        self.image_size, self.in_channels = image_size, in_channels
        self.learning_rates = dict(learning_rates or {})
        for prefix, multiplier in self.learning_rates.items():
            check_range(f"learning_rates[{prefix!r}]", multiplier, low=0)
        self.chain: tuple[str, ...] = ()
        self.readout: tuple[str, ...] = ()
        self.prefix: str | None = None
        self.has_head = False
        self.taps: dict[str, str] = {}
        self._traces: dict[str, LayerTrace] = {}
        self._geometries: dict[str, LayerGeometry] = {}
        steps, wanted = dict(chain), dict(taps or {})
        for step in (cut, freeze):
            steps = opened(steps, wanted.get(step, step) if step else "")
        self._register(steps)
        self.chain = tuple(steps)
        if isinstance(classifier, nn.Module):
            classifier = {"classifier": classifier}
        if cut is None:
            self._register(classifier or {})
            self.readout = tuple(classifier or ())
        self._trace()
        self._publish(wanted)
        if cut is not None:
            self._cut(self._step_of("cut", cut), wanted)
        if freeze is not None:
            self._freeze(self._step_of("freeze", freeze))

    # -- forward ---------------------------------------------------------------------------

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``(N, C)`` of normalised images ``(N, channels, H, W)``."""
        return self.forward_suffix(self.forward_prefix(images))

    def forward_prefix(self, images: Tensor) -> Tensor:
        """Output of the frozen prefix; the images themselves if nothing is frozen."""
        return self._run(images, self.prefix_steps)

    def forward_suffix(self, activations: Tensor) -> Tensor:
        """Logits of the output of `forward_prefix`.

        Raises:
            ValueError: if the network has neither classifier nor head.
        """
        activations = self._run(activations, self.chain[len(self.prefix_steps) :])
        if self.has_head:
            logits: Tensor = self.head(activations)
            return logits
        if not self.readout:
            raise ValueError(
                "`network` must have a classifier or a head to compute logits, but has none. Call "
                "`attach_head(head)` or `resize_classifier(num_outputs)` first."
            )
        return self._run(activations, self.readout)

    def forward_chain(self, images: Tensor) -> Tensor:
        """The map after the last step of the chain, ``(N, K, h, w)``."""
        return self._run(images, self.chain)

    def _run(self, activations: Tensor, steps: tuple[str, ...]) -> Tensor:
        for step in steps:  # looked up by name: an objective may have replaced a module
            activations = self.get_submodule(step)(activations)
        return activations

    # -- layers ----------------------------------------------------------------------------

    def resolve(self, layer: str) -> str:
        """The dotted name behind an alias, a dotted name, or a container of steps.

        Raises:
            ValueError: if there is no such layer; names the closest.
        """
        name = self.taps.get(layer, layer)
        names = dict.fromkeys(known for known, _ in self.named_modules() if known)
        if name not in names and f"model.{name}" in names:  # a network that is one single step
            name = f"model.{name}"
        if name not in names:
            check_name("layer", layer, [*self.taps, *names], "an alias or a module of the network")
        if name not in self._traces:
            inside = [step for step in self.chain if step.startswith(name + ".")]
            name = inside[-1] if inside else name
        return name

    def geometry(self, layer: str) -> LayerGeometry:
        """Where the cells of `layer` lie in the image, also for layers of the head.

        From the recursion over operations; measured from gradients where that does not reach.

        Raises:
            ValueError: if there is no such layer, or it has no map of cells.
        """
        name = self.resolve(layer)
        if name not in self._geometries:
            self._geometries[name] = self._find_geometry(layer, name)
        return self._geometries[name]

    def num_channels(self, layer: str) -> int:
        """Units of `layer`."""
        return self._trace_of(self.resolve(layer)).shape[1]

    def feature_shape(self, image_size: int | None = None) -> tuple[int, int, int]:
        """Channels, height and width of the chain's last map, for a head; nothing is computed.

        Args:
            image_size: side of the images; None is the backbone's own.

        Raises:
            ValueError: if the images are too small for the chain.
        """
        side = image_size or self.image_size
        shape = (self.in_channels, side, side)
        try:
            trace = trace_layers(self, shape, run=self.forward_chain)[""]
        except RuntimeError as error:
            raise ValueError(
                f"`image_size` must be large enough for the network, but with {side} it fails: "
                f"{error}. Use larger images."
            ) from error
        channels, height, width = trace.shape[1:]
        return channels, height, width

    # -- head and classifier ---------------------------------------------------------------

    def attach_head(self, head: nn.Module) -> None:
        """Put `head` in the place of the classifier (or of an earlier head), as ``self.head``.

        Its ``taps`` (alias -> name inside the head) are published with the prefix ``head.``. With
        an ``in_size`` (height, width), its layers get a geometry.

        Raises:
            ValueError: if a step of the chain is already called ``head``.
        """
        if not self.chain:
            raise ValueError(
                "`head` must follow a chain of steps, but the network is one single step. Make its "
                "forward method a plain sequence of modules, or write the head into it."
            )
        if any(step.split(".")[0] == "head" for step in self.chain):
            raise ValueError(
                "`head` must not replace a step of the chain, but a step is called 'head'. Cut it "
                "off with `cut`, or rename the module."
            )
        for name in self.readout:
            self._delete(name)
        self.readout = ()
        for alias in [key for key, name in self.taps.items() if name.startswith("head.")]:
            del self.taps[alias]
        self.head = head
        self.has_head = True
        own: Mapping[str, str] = getattr(head, "taps", {})
        self.taps["last"] = self.taps["top"]
        self.taps.update({alias: f"head.{name}" for alias, name in own.items()})
        self._trace()

    def resize_classifier(self, num_outputs: int) -> None:
        """Give the classifier `num_outputs` outputs; its last linear layer starts afresh.

        The last linear layer, or 1x1 convolution, keeps its name. A ReLU on the logits
        (SqueezeNet) is taken out, because a logistic loss needs negative logits. Where there is no
        classifier (after a cut), mean pooling and one linear layer are put there.

        Raises:
            ValueError: if a head is attached, or the classifier has no linear layer.
        """
        check_range("num_outputs", num_outputs, low=1)
        if self.has_head:
            raise ValueError(
                "`resize_classifier` must be called on a network without a head, but one is "
                "attached. Attach another head with `num_outputs` outputs instead."
            )
        if not self.readout:
            steps = pooled_linear(self.feature_shape()[0], num_outputs)
            self._register(steps)
            self.readout = tuple(steps)
        else:
            resize_last_linear(self, self.readout, num_outputs)

    # -- learning --------------------------------------------------------------------------

    @property
    def prefix_steps(self) -> tuple[str, ...]:
        """Dotted names of the frozen steps."""
        if self.prefix is None:
            return ()
        return self.chain[: self.chain.index(self.prefix) + 1]

    def freeze_statistics(self) -> None:
        """Put the frozen prefix in evaluation mode."""
        for step in self.prefix_steps:
            self.get_submodule(step).eval()

    def train(self, mode: bool = True) -> "Backbone":
        """Training mode for all but the frozen prefix."""
        super().train(mode)
        self.freeze_statistics()
        return self

    def weights_hash(self) -> str:
        """Hash of the frozen prefix: its steps, their settings, weights and statistics."""
        return hash_of_modules({step: self.get_submodule(step) for step in self.prefix_steps})

    def parameter_groups(
        self,
        lr: float,
        *,
        weight_decay: float | None = None,
        decay_biases_and_norms: bool = True,
    ) -> list[dict[str, Any]]:
        """Every trainable parameter once, with the rates of `learning_rates` (aliases count).

        See `interp_train.backbones.parameter_groups.parameter_groups`.
        """
        multipliers = {self.taps.get(key, key): m for key, m in self.learning_rates.items()}
        return parameter_groups(
            self,
            lr,
            multipliers,
            weight_decay=weight_decay,
            decay_biases_and_norms=decay_biases_and_norms,
        )

    # -- construction ----------------------------------------------------------------------

    def _register(self, steps: Mapping[str, nn.Module]) -> None:
        for name, module in steps.items():
            holder: nn.Module = self
            *containers, key = name.split(".")
            for container in containers:
                if container not in holder._modules:
                    holder.add_module(container, nn.Sequential())
                holder = holder.get_submodule(container)
            if hasattr(holder, key) and key not in holder._modules:
                raise ValueError(
                    f"`chain` must not use names that a network needs itself, but got {name!r}. "
                    f"Rename that module."
                )
            holder.add_module(key, module)

    def _delete(self, name: str) -> None:
        holder, _, key = name.rpartition(".")
        del self.get_submodule(holder)._modules[key]
        if holder and not self.get_submodule(holder)._modules:
            self._delete(holder)

    def _step_of(self, argument: str, layer: str) -> str:
        name = self.taps.get(layer, layer)
        inside = [step for step in self.chain if step.startswith(name + ".")]
        name = inside[-1] if inside else name
        check_name(argument, name, self.chain, "a step of the chain")
        return name

    def _cut(self, step: str, wanted: Mapping[str, str]) -> None:
        keep = self.chain.index(step) + 1
        for name in self.chain[keep:]:
            self._delete(name)
        self.chain = self.chain[:keep]
        self._trace()
        names = {name for name, _ in self.named_modules()}
        self._publish({alias: name for alias, name in wanted.items() if name in names})

    def _freeze(self, step: str) -> None:
        self.prefix = step
        for name in self.prefix_steps:
            self.get_submodule(name).requires_grad_(False)
        self.freeze_statistics()

    def _publish(self, wanted: Mapping[str, str]) -> None:
        names = [name for name, _ in self.named_modules()]
        for alias, name in wanted.items():
            check_name(f"taps[{alias!r}]", name, names, "a module of the network")
        steps = {step: self.get_submodule(step) for step in self.chain}
        self.taps = aliases_by_stride(steps, self._traces) | dict(wanted)

    def _trace(self) -> None:
        self._geometries = {}
        shape = (self.in_channels, self.image_size, self.image_size)
        self._traces = trace_layers(self, shape, run=self.forward_chain)
        end = self._traces.pop("")
        height, width = getattr(self.head, "in_size", (0, 0)) if self.has_head else (0, 0)
        if height:
            head = trace_layers(self.head, (end.shape[1], height, width), grid=end.grid)
            self._traces["head"] = head.pop("")
            self._traces |= {f"head.{name}": trace for name, trace in head.items()}

    def _find_geometry(self, layer: str, name: str) -> LayerGeometry:
        trace = self._trace_of(name)
        grid = trace.grid
        if grid is None or not has_square_map(trace):
            raise ValueError(
                f"`layer` must put out a square map of cells, units first, but {layer!r} puts out "
                f"{tuple(trace.shape[1:])} per image. Choose a layer with units x rows x columns."
            )
        if isinstance(grid, str) and self.has_head and name.startswith("head."):
            start = grid_of(self.geometry(self.chain[-1]))
            shape = (self.num_channels(self.chain[-1]), *self.head.in_size)  # type: ignore[misc]
            grid = trace_layers(self.head, shape, grid=start)[name.removeprefix("head.")].grid
        known = geometry_of(grid) if isinstance(grid, tuple) else None
        return known or self._measure(name)[name]

    def _measure(self, name: str) -> dict[str, LayerGeometry]:
        """Geometry of a layer and, at the same cost, of all steps without a table."""
        steps = [
            step
            for step in self.chain
            if isinstance(self._traces[step].grid, str) and has_square_map(self._traces[step])
        ]
        layers = list(dict.fromkeys([name, *steps]))
        method = "forward_chain" if self.chain else "forward"
        self._geometries |= measure_geometry(self, layers, method=method)
        return self._geometries

    def _trace_of(self, name: str) -> LayerTrace:
        if name not in self._traces:
            self._trace()
        if name not in self._traces:  # in the readout, or in a head of unknown size
            shape = (self.in_channels, self.image_size, self.image_size)
            self._traces = trace_layers(self, shape)
        if name not in self._traces:
            raise ValueError(
                f"`layer` must be called in the forward pass, but {name!r} is not. Closest names: "
                f"{closest(name, self._traces)}."
            )
        return self._traces[name]
