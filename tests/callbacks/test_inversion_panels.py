import numpy as np
import pytest
import torch

from interp_train.callbacks.inversion_panels import InversionPanels
from tests.callbacks.panel_run import BlobImages, ForeignModule, loader, trainer


class Inverting(ForeignModule):
    """Gives back every image upside down, and darker."""

    layer = "body.2"

    def reconstructions(self, images):
        return (images.flip(-2) + 1) / 4

    def on_validation_epoch_end(self):  # runs after the callbacks' hook of that name
        self.log("loss/validation/relative", torch.tensor(0.25 / (1 + self.current_epoch)))


def record(folder):
    return np.load(folder / "measures" / "panels" / "inversion.npz")


def test_records_the_pinned_images_and_what_the_module_gives_back(tmp_path):
    run = trainer(tmp_path, [InversionPanels(indices=[2, 5])], max_epochs=2)
    run.fit(Inverting(), loader(), loader())
    found = record(tmp_path)
    images = torch.stack([BlobImages()[index].images for index in (2, 5)])
    expected = ((images.flip(-2) + 1) / 4 * 255).round().to(torch.uint8).numpy()
    np.testing.assert_array_equal(found["reconstructions"], expected)
    assert str(found["layer"]) == "body.2"
    assert float(found["relative_error"]) == 0.125
    figures = sorted(path.name for path in (tmp_path / "figures").iterdir())
    assert figures == [f"visualization_body.2_inversion_epoch00{epoch}.png" for epoch in (0, 1)]


def test_every_n_epochs_and_the_last(tmp_path):
    run = trainer(tmp_path, [InversionPanels(num_images=2, every_n_epochs=2)], max_epochs=4)
    run.fit(Inverting(), loader(), loader())
    names = sorted(path.name[-8:-4] for path in (tmp_path / "figures").iterdir())
    assert names == ["h000", "h002", "h003"]


def test_a_module_that_inverts_nothing_is_refused(tmp_path):
    run = trainer(tmp_path, [InversionPanels()])
    with pytest.raises(ValueError, match="`learning` must be a system that inverts a layer"):
        run.validate(ForeignModule(), loader(), verbose=False)


def test_numbers_must_be_positive():
    with pytest.raises(ValueError, match="`num_images` must be >= 1, but got 0"):
        InversionPanels(num_images=0)
