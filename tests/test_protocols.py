from torch import nn

from interp_train.protocols import (
    Explainer,
    FilterObjective,
    HeatmapMethod,
    PathObjective,
    UnitVisualizer,
)


class Objective(nn.Module):
    taps = ("top",)

    def attach(self, network, num_categories): ...

    def loss_terms(self, activations, labels, logits, epoch): ...

    def measurements(self): ...


def test_a_contract_is_met_by_shape_not_by_inheritance():
    assert isinstance(Objective(), FilterObjective)
    assert isinstance(lambda network, images, target: images, HeatmapMethod)
    assert isinstance(lambda network, target, images: images, UnitVisualizer)


def test_an_incomplete_method_does_not_meet_it():
    class Incomplete(nn.Module):
        taps = ("top",)

    assert not isinstance(Incomplete(), FilterObjective)
    assert not isinstance(Objective(), Explainer)


def test_a_second_path_is_a_further_contract():
    class WithPath(Objective):
        def path_terms(self, outputs, batch, second_path, epoch): ...

    assert isinstance(WithPath(), PathObjective)
    assert not isinstance(Objective(), PathObjective)
