import numpy as np
import pytest
import torch

from interp_train.callbacks.heatmap_panels import (
    HeatmapPanels,
    panel_titles,
    scale_label,
    zero_marked,
)
from interp_train.callbacks.pinned_images import (
    pinned_images,
    pixels_of,
    spread_indices,
    validation_loader,
)
from interp_train.diagnosis.heatmaps.grad_cam import GradCam
from interp_train.structures import DataInfo
from tests.callbacks.panel_run import BlobImages, ForeignModule, loader, trainer


def panels(**options):
    return HeatmapPanels({"grad_cam": GradCam("body.4"), "off": None}, num_images=4, **options)


def record(folder):
    return np.load(folder / "measures" / "panels" / "heatmaps_grad_cam.npz")


def test_fit_and_validate_draw_and_record_the_same_pinned_images(tmp_path):
    run = trainer(tmp_path / "fit", [panels()], max_epochs=2)
    run.fit(ForeignModule(), loader(), loader())
    trainer(tmp_path / "validate", [panels()]).validate(ForeignModule(), loader(), verbose=False)
    figures = sorted(path.name for path in (tmp_path / "fit" / "figures").iterdir())
    assert figures == ["heatmaps_grad_cam_epoch000.png", "heatmaps_grad_cam_epoch001.png"]
    fitted, validated = record(tmp_path / "fit"), record(tmp_path / "validate")
    assert fitted["sample_ids"].tolist() == [1000, 1004, 1007, 1011]
    assert int(fitted["epoch"]) == 1
    np.testing.assert_array_equal(fitted["images"], validated["images"])
    assert validated["heatmaps"].shape == (4, 1, 32, 32)


def test_the_recorded_heatmaps_are_those_of_the_method(tmp_path):
    module = ForeignModule()
    trainer(tmp_path, [panels()]).validate(module, loader(), verbose=False)
    batch = [BlobImages()[index] for index in (0, 4, 7, 11)]
    images = torch.stack([item.images for item in batch])
    from interp_train.structures import Target

    target = Target(None, torch.stack([item.labels for item in batch]))
    expected = GradCam("body.4")(module.eval(), images, target)
    found = torch.from_numpy(record(tmp_path)["heatmaps"]).float()
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)


def test_predictions_are_of_the_images_whatever_else_a_method_shows_the_network(tmp_path):
    def elsewhere(network, images, target):
        network(-images)
        return images[:, :1].abs()

    pinned = torch.stack([BlobImages()[index].images for index in (0, 4, 7, 11)])
    module, passes, titles = ForeignModule(), [], {}
    module.register_forward_hook(
        lambda own, inputs, outputs: passes.append(torch.equal(inputs[0], pinned))
    )
    for name, method in (("grad_cam", GradCam("body.4")), ("elsewhere", elsewhere)):
        callback = HeatmapPanels({name: method}, num_images=4)
        trainer(tmp_path, [callback]).validate(module, loader(), verbose=False)
        found = np.load(tmp_path / "measures" / "panels" / f"heatmaps_{name}.npz")
        titles[name] = [title.split("\n")[0] for title in found["titles"].tolist()]
        assert sum(passes) == 1, name
        passes.clear()
    assert titles["grad_cam"] == titles["elsewhere"]


def test_training_is_the_same_with_and_without(tmp_path):
    weights = []
    for callbacks in ([], [panels()]):
        torch.manual_seed(3)
        module = ForeignModule()
        # Validation falls between the two halves of an accumulated gradient.
        run = trainer(
            tmp_path, callbacks, max_epochs=2, accumulate_grad_batches=2, val_check_interval=1
        )
        run.fit(module, loader(), loader())
        weights.append({name: value.clone() for name, value in module.state_dict().items()})
    for name, value in weights[0].items():
        assert torch.equal(value, weights[1][name]), name


def test_every_n_epochs_and_the_last_but_not_the_sanity_check(tmp_path):
    run = trainer(tmp_path, [panels(every_n_epochs=2)], max_epochs=4, num_sanity_val_steps=1)
    run.fit(ForeignModule(), loader(), loader())
    names = sorted(path.name for path in (tmp_path / "figures").iterdir())
    assert names == [f"heatmaps_grad_cam_epoch{epoch:03d}.png" for epoch in (0, 2, 3)]


def test_pinned_images_prefer_categories_and_fill_up_with_background():
    class Fake:
        val_dataloaders = [loader(12, background_every=2)]

    batch = pinned_images(Fake(), number=4)
    assert batch.sample_ids.tolist() == [1001, 1005, 1007, 1011]
    assert pinned_images(Fake(), number=8).labels.tolist() == [1] * 6 + [-1, -1]
    assert pinned_images(Fake(), number=2, indices=[3, 2]).sample_ids.tolist() == [1003, 1002]
    with pytest.raises(ValueError, match="`indices` must be >= 0 and <= 11, but got 12"):
        pinned_images(Fake(), number=2, indices=[12])


def test_spread_indices():
    assert spread_indices(10, 4) == [0, 3, 6, 9]
    assert spread_indices(2, 4) == [0, 1]
    assert spread_indices(7, 1) == [0]


def test_a_stream_is_refused_with_a_way_out():
    class Fake:
        val_dataloaders = iter([])

    with pytest.raises(ValueError, match=r"`__getitem__` and `__len__`.* Leave out the callbacks"):
        validation_loader(Fake())


def test_pixels_undo_the_normalisation_or_stretch_the_range():
    images = torch.tensor([-1.0, 1.0]).view(1, 1, 1, 2)

    class Module:
        data_info = DataInfo("", (), (), {}, (), 2, 1, (0.5,), (0.25,), "", "")

    expected = torch.tensor([0.25, 0.75]).view(1, 1, 1, 2).expand(1, 3, 1, 2)
    torch.testing.assert_close(pixels_of(Module(), images), expected)
    stretched = torch.tensor([0.0, 1.0]).view(1, 1, 1, 2).expand(1, 3, 1, 2)
    torch.testing.assert_close(pixels_of(object(), images), stretched)


def test_titles_say_what_is_and_what_the_network_sees():
    titles = panel_titles(
        torch.tensor([0, 1, -1]), torch.tensor([0, 0, -1]), torch.tensor([0.912, 0.5, 0.999]),
        ["red_fox", "owl"],
    )  # fmt: skip
    assert titles == ["red fox (.91)", "owl → red fox (.50)", "background (1.0)"]


def test_heatmaps_that_are_zero_everywhere_are_labelled_so(tmp_path):
    heatmaps = torch.zeros(3, 1, 4, 4)
    heatmaps[1, 0, 2, 2] = 1e-9
    assert zero_marked(["a", "b", "c"], heatmaps) == [
        "a\nheatmap is all zero", "b", "c\nheatmap is all zero",
    ]  # fmt: skip

    class Nothing:
        def __call__(self, network, images, target):
            return torch.zeros_like(images[:, :1])

    callback = HeatmapPanels({"nothing": Nothing()}, num_images=2)
    trainer(tmp_path, [callback]).validate(ForeignModule(), loader(), verbose=False)
    found = np.load(tmp_path / "measures" / "panels" / "heatmaps_nothing.npz")
    assert all(title.endswith("heatmap is all zero") for title in found["titles"].tolist())
    assert str(found["shows"]) == "values of the method's own"


def test_the_colour_bar_says_what_the_method_shows(tmp_path):
    assert scale_label("grad_cam", GradCam.shows) == (
        "grad cam: evidence for the category, in logits; one scale for all"
    )
    trainer(tmp_path, [panels()]).validate(ForeignModule(), loader(), verbose=False)
    assert str(record(tmp_path)["shows"]) == GradCam.shows


def test_constructor_checks():
    with pytest.raises(ValueError, match="`num_images` must be >= 1"):
        HeatmapPanels({}, num_images=0)
