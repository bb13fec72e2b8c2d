"""What a probe set must offer to be dissected with."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from torch.utils.data import DataLoader

from interp_train.structures import ConceptBatch

ConceptNames = Mapping[str, Sequence[str]]


@runtime_checkable
class ProbeSet(Protocol):
    """Images with concept maps, normalised as the network expects.

    Attributes:
        concept_names: category -> names; label v > 0 of its map stands for name v - 1.

    A set whose categories have several maps says how many in ``concept_layers`` (category ->
    number), see `ConceptBatch`.
    """

    concept_names: ConceptNames

    def concept_dataloader(self) -> DataLoader[ConceptBatch]:
        """Every image once over all processes, in the same order each time."""


def checked_probe_set(probe_set: Any) -> ProbeSet | None:
    """`probe_set`, if it is one or None.

    Raises:
        ValueError: otherwise.
    """
    if probe_set is not None and not isinstance(probe_set, ProbeSet):
        raise ValueError(
            f"`probe_set` must have `concept_names` and `concept_dataloader()`, but got "
            f"{type(probe_set).__name__}. Use e.g. a SegmentationFolder, or probe_set=<name>."
        )
    return probe_set
