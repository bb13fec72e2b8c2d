"""Pictures of latent codes during a run, and what the report makes of them."""

import io

import numpy as np
import pytest
import torch
from markupsafe import Markup
from PIL import Image

from interp_train.callbacks.code_panels import CodePanels, value_labels
from interp_train.latent_figures import animation_frames, gif, grid_figure
from interp_train.learning.infogan.functional import parsed_codes
from interp_train.report.latent_codes import code_blocks
from interp_train.report.records import RunData
from tests.learning.infogan.small_gan import small_gan, trained


def run_of(record):
    return RunData("gan", "bars", 0, None, {}, {}, {}, {}, {}, {}, {"codes": record}, {}, ())


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Folder of a run with pictures, its system, and the record."""
    folder = tmp_path_factory.mktemp("run")
    system = small_gan(codes=["categorical_2", "uniform", "bernoulli"])
    panels = CodePanels(num_samples=12, num_rows=3, steps=5)
    trained(system, folder, callbacks=[panels])
    with np.load(folder / "measures" / "panels" / "codes.npz") as archive:
        return folder, system, dict(archive)


def test_pictures_and_records_are_written(finished):
    folder, _, record = finished
    names = {path.name for path in (folder / "figures").iterdir()}
    tags = ("samples", "varied_0_categorical", "varied_1_uniform", "varied_2_bernoulli")
    assert {f"codes_{tag}_epoch000.png" for tag in tags} <= names
    assert record["samples"].shape == (12, 3, 8, 8)
    assert record["varied_0_categorical"].shape == (3, 2, 3, 8, 8)
    assert record["varied_1_uniform"].shape == (3, 5, 3, 8, 8)
    assert record["values_1_uniform"].tolist() == [-2, -1, 0, 1, 2]
    assert record["values_2_bernoulli"].tolist() == [0, 1]


def test_only_the_named_code_changes_along_a_row(finished):
    """The generator itself, asked with latents put together by hand."""
    _, system, record = finished
    drawn = system.draw(torch.arange(3), 6, epoch=0)
    for step, value in enumerate(record["values_1_uniform"]):
        values = drawn.values.clone()
        values[:, 0] = torch.tensor([0.0, 1.0, 0.0])
        values[:, 1] = float(value)
        expected = system.pictures(drawn._replace(values=values)) * 255
        found = torch.from_numpy(record["varied_1_uniform"][:, step]).float()
        torch.testing.assert_close(found, expected, rtol=0, atol=1.0)


def test_the_report_shows_samples_and_animations(finished, tmp_path):
    _, _, record = finished
    source = np.random.default_rng(0)  # equal frames would become one
    frames = source.integers(0, 256, record["varied_1_uniform"].shape, dtype=np.uint8)
    record = {**record, "varied_1_uniform": frames}
    ((title, _, body),) = code_blocks("bars", [run_of(record)], tmp_path)
    assert title.endswith("gan")
    assert isinstance(body, Markup)
    assert body.count("data:image/gif") == 1
    assert body.count("data:image/webp") == 3
    assert "http" not in body
    with Image.open(tmp_path / "figures" / "code_1_uniform_bars_gan.gif") as image:
        assert image.n_frames == 8
        assert image.info["loop"] == 0
    assert code_blocks("bars", [run_of({})], tmp_path) == []


def test_an_animation_goes_there_and_back():
    steps = torch.linspace(0, 1, 4)[:, None, None, None, None].expand(4, 2, 3, 5, 5)
    frames = animation_frames(steps, 2)
    assert frames.shape == (6, 3, 5, 12)
    assert frames[:, 0, 0, 0].tolist() == [0, 85, 170, 255, 170, 85]
    with Image.open(io.BytesIO(gif(frames, seconds=0.6, scale=2))) as image:
        assert image.size == (24, 10)
        assert image.n_frames == 6
        assert image.info["duration"] == 100


def test_a_grid_has_its_labels():
    figure = grid_figure(torch.rand(2, 3, 3, 4, 4), ("a", "b"), ("x", "y", "z"), title="title")
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts == ["a", "b", "x", "y", "z"]
    assert figure.texts[0].get_text() == "title"
    codes = parsed_codes(["categorical_3", "uniform"])
    assert value_labels(codes[0], torch.arange(3)) == ["0", "1", "2"]
    assert value_labels(codes[1], torch.tensor([-0.5, 1.0])) == ["−0.5", "1.0"]


def test_systems_without_codes_are_refused():
    with pytest.raises(ValueError, match="must watch a system with latent codes, .* got object"):
        CodePanels().on_validation_epoch_end(None, object())
