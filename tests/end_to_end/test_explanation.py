"""Explanations of single images: of a run, by the command, and of a foreign network."""

import json
import re

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import interp_train
from interp_train.diagnosis.heatmaps.saliency import Saliency
from interp_train.experiment import train
from interp_train.targets import trust
from interp_train.trained_network import input_info
from tests.end_to_end.conftest import TOY
from tests.end_to_end.toy import SquareData, toy_config


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Folder of a trained toy run with the dissection of its layer."""
    trust("tests")
    folder = train(toy_config(tmp_path_factory.mktemp("outputs"), trainer__max_epochs=2)).folder
    lines = ["unit,label,iou", *(f"{unit},square_{unit},0.{unit}5" for unit in range(4))]
    (folder / "tables").mkdir()
    (folder / "tables" / "dissection_relu.csv").write_text("\n".join(lines))
    return folder


@pytest.fixture
def photos(tmp_path):
    """Two image files: bright in the middle, and dark."""
    pixels = np.full((20, 30, 3), 20, np.uint8)
    Image.fromarray(pixels).save(tmp_path / "dark photo.png")
    pixels[5:15, 8:22] = 250
    Image.fromarray(pixels).save(tmp_path / "bright.png")
    return [tmp_path / "bright.png", tmp_path / "dark photo.png"]


def test_a_run_is_explained_with_concepts_and_images_of_its_data(run, photos, tmp_path):
    found = interp_train.explain(
        run, photos, methods={"saliency": Saliency()}, folder=tmp_path / "new", num_units=2,
        num_top_images=3,
    )  # fmt: skip
    network = interp_train.load(run).network
    image = found.images[0]
    pixels = torch.from_numpy(np.array(Image.open(photos[0]).resize((8, 8), Image.BILINEAR)))
    with torch.no_grad():
        probabilities = network(pixels.permute(2, 0, 1)[None] / 255).softmax(1)[0]
    assert image.confidence == pytest.approx(float(probabilities.max()), abs=1e-3)
    assert image.prediction == int(probabilities.argmax())
    assert image.predicted_name == ("dark", "bright")[image.prediction]
    assert [heatmap.method for heatmap in image.heatmaps] == ["saliency"]
    assert image.exact
    assert all(unit.concept.name == f"square_{unit.unit}" for unit in image.units)
    assert found.typical_source == "the validation data (squares)"
    check_units(image, network)
    check_files(found, ["bright", "dark_photo"])


def check_units(image, network):
    """Units, contributions and top images, computed anew from all validation images."""
    with torch.no_grad():
        maps = network.relu(network.convolution(image.pixels[None]))[0]
        pooled = maps.mean((-2, -1))
        batches = list(SquareData().val_dataloader())
        every = torch.cat([network.relu(network.convolution(b.images)) for b in batches])
        ids = torch.cat([b.sample_ids for b in batches])
    weights = network.get_submodule("classifier")[3].weight[image.category].detach()
    contributions = weights * pooled
    order = contributions.argsort(descending=True)[: len(image.units)].tolist()
    assert [unit.unit for unit in image.units] == order
    for unit in image.units:
        assert unit.contribution == pytest.approx(float(contributions[unit.unit]), rel=1e-4)
        assert unit.share == pytest.approx(
            float(contributions[unit.unit] / contributions.clamp(min=0).sum()), rel=1e-4
        )
        row, column = divmod(int(maps[unit.unit].argmax()), 8)
        assert unit.position == (column, row)
        assert unit.field == (column - 1, row - 1, column + 1, row + 1)
        peaks = every[:, unit.unit].amax((-2, -1))
        best = peaks.argsort(descending=True)[: len(unit.typical_ids)]
        assert list(unit.typical_ids) == ids[best].tolist()
        assert list(unit.typical_values) == pytest.approx(peaks[best].tolist())


def check_files(found, names):
    """Page, records and figures."""
    page = (found.folder / "explanation.html").read_text("utf-8")
    assert not re.search(r"(src|href)=\"(?!data:|#)", page)
    assert "<script" not in page
    assert page.count("<img") == sum(
        1 + len(view.heatmaps) + sum(1 + len(u.typical) for u in view.units)
        for view in found.images
    )
    record = json.loads((found.folder / "explanation.json").read_text())
    assert [entry["name"] for entry in record["images"]] == names
    for entry, view in zip(record["images"], found.images, strict=True):
        assert entry["prediction"] == view.predicted_name
        assert [unit["unit"] for unit in entry["units"]] == [unit.unit for unit in view.units]
        assert all((found.folder / figure).stat().st_size > 0 for figure in entry["figure"])
    assert json.loads((found.folder / "status.json").read_text())["status"] == "finished"


def test_the_command_explains_a_chosen_category(run, photos, tmp_path, command):
    code, output, errors = command(
        "explain", run, *TOY, f"images=[{photos[0]},'{photos[1]}']", "heatmap=[grad_cam,saliency]",
        "category=dark", f"output_dir={tmp_path}", "num_units=1", "data.seed=3",
    )  # fmt: skip
    assert (code, errors) == (0, "")
    assert "explanation.html" in output
    (record,) = (tmp_path / "explain").rglob("explanation.json")
    images = json.loads(record.read_text())["images"]
    assert [entry["explained"]["name"] for entry in images] == ["dark", "dark"]
    assert list(images[0]["heatmaps"]) == ["grad_cam", "saliency"]


def foreign():
    """A network of the user's, in training mode, that knows nothing of this package."""
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(inplace=True),
        nn.MaxPool2d(2), nn.Conv2d(6, 5, 3, padding=1), nn.ReLU(inplace=True),
        nn.Flatten(), nn.Linear(5 * 36, 3),
    )  # fmt: skip


def test_a_foreign_network_with_tensors_and_its_own_loader(tmp_path):
    network = foreign()
    images = torch.randn(2, 1, 12, 12)
    loader = torch.utils.data.DataLoader(
        [(torch.randn(1, 12, 12), 0) for _ in range(9)], batch_size=4
    )
    info = input_info(("a", "b", "c"), image_size=12, channels=1, mean=(0.0,), std=(1.0,))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    found = interp_train.explain(
        network, images, layer="2", data=loader, info=info, output_dir=tmp_path, num_units=3
    )
    assert network.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert [view.name for view in found.images] == ["image_1", "image_2"]
    assert not found.images[0].exact
    assert found.images[0].predicted_name in "abc"
    assert all(max(unit.typical_ids) < 9 for unit in found.images[0].units)
    assert found.concept_source is None
    assert found.images[0].heatmaps[0].method == "grad_cam"


def test_few_images_without_data_say_why_nothing_is_typical(tmp_path):
    found = interp_train.explain(
        foreign(), torch.randn(1, 1, 12, 12), layer="5", output_dir=tmp_path, num_units=1,
        info=input_info(
            image_size=12, channels=1, mean=(0.0,), std=(1.0,)
        ),
    )  # fmt: skip
    assert found.typical_reason == "no data were given, and the explained images are too few"
    assert found.typical_reason in (found.folder / "explanation.html").read_text("utf-8")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["images=[nowhere.png]"], "`images` must name files or folders that exist"),
        (["images=[{text}]"], "`images` must name readable images, but .*text.png"),
        (["images=[{photo}]", "layer=rel"], "`layer` must name a module.*Closest names: 'relu'"),
        (["images=[{photo}]", "category=brigt"], "`category` must name a category.*'bright'"),
        (["images=[{photo}]", "category=2"], "`category` must be >= 0 and <= 1, but got 2"),
        (["images=[{photo}]", "dissection=no.csv"], "`dissection` must be a csv or JSON file"),
        (["images=[{photo}]", "num_units=-1"], "`num_units` must be >= 0"),
        (["images=[{photo}]", "backbone=two_layers"], "Either `path` or `backbone`.*got both"),
        (["images=[{photo}]", "data.sed=1"], "`data.sed` must name a key of the run's data"),
        ([], "`images` must be given"),
    ],
)
def test_the_command_says_what_is_wrong(run, photos, tmp_path, command, arguments, message):
    (tmp_path / "text.png").write_text("no image")
    filled = [a.format(photo=photos[0], text=tmp_path / "text.png") for a in arguments]
    code, _, errors = command("explain", run, *TOY, *filled, f"output_dir={tmp_path}")
    assert code in (1, 2)
    assert re.search(message, errors)
    assert "Traceback" not in errors


def test_unknown_settings_of_the_function_are_named(run):
    with pytest.raises(ValueError, match="`settings` must name a setting.*'num_unit'.*'num_units'"):
        interp_train.explain(run, ["a.png"], num_unit=3)
