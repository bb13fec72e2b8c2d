"""What a filter objective is given: its terms in one step, and its group in the optimiser."""

from collections.abc import Callable
from typing import Any, final

from torch import Tensor, nn

from interp_train.backbones.backbone import Backbone
from interp_train.backbones.layers_behind import logits_behind
from interp_train.precision import at_least_float32
from interp_train.protocols import FilterObjective, PathObjective, ViewObjective
from interp_train.structures import Batch, StepOutputs, ViewBatch


@final
class SecondPath:
    """Classification losses with other activations in the place of a layer's own.

    Args:
        network: what follows the layer is run again; see `logits_behind`.
        labels: of the images, ``(N,)``.
        image_losses: logits ``(N, C)`` and labels -> loss of each image, ``(N,)``.
    """

    def __init__(
        self,
        network: Backbone,
        labels: Tensor,
        image_losses: Callable[[Tensor, Tensor], Tensor],
    ) -> None:
        self.network, self.labels, self.image_losses = network, labels, image_losses

    def __call__(self, layer: str, activations: Tensor) -> Tensor:
        """Loss of each image ``(N,)``; see `interp_train.protocols.PathObjective`."""
        logits = logits_behind(self.network, layer, activations)
        return self.image_losses(at_least_float32(logits), self.labels)


def objective_terms(
    objective: FilterObjective,
    outputs: StepOutputs,
    batch: Batch,
    second_path: Callable[[str, Tensor], Tensor],
    epoch: int,
) -> dict[str, Tensor]:
    """All terms of one objective: of the batch, of its views, and of a second path.

    Args:
        objective: attached.
        outputs: of the ordinary path.
        batch: what the outputs belong to.
        second_path: see `interp_train.protocols.PathObjective`.
        epoch: 1 in the first epoch.
    """
    activations = outputs.activations
    terms = objective.loss_terms(activations, batch.labels, outputs.logits, epoch)
    if isinstance(batch, ViewBatch) and isinstance(objective, ViewObjective):
        terms |= objective.view_terms(activations, batch, epoch)
    if isinstance(objective, PathObjective):
        terms |= objective.path_terms(outputs, batch, second_path, epoch)
    return terms


def objective_groups(objectives: nn.ModuleDict, rate: float) -> list[dict[str, Any]]:
    """Parameter groups of the objectives that learn, for an optimiser.

    Objectives share one group, but for those with an attribute ``rate_factor`` other than 1,
    which have one each.

    Args:
        objectives: name -> objective.
        rate: of the network.
    """
    shared: list[nn.Parameter] = []
    groups: list[dict[str, Any]] = []
    for name, objective in objectives.items():
        own = [parameter for parameter in objective.parameters() if parameter.requires_grad]
        factor = float(getattr(objective, "rate_factor", 1.0))
        if factor == 1.0:
            shared += own
        elif own:
            groups.append({"params": own, "lr": factor * rate, "name": f"objectives.{name}"})
    first = [{"params": shared, "lr": rate, "name": "objectives"}] if shared else []
    return first + groups
