"""Pictures of capsules during a run: what is drawn, varied and voted for."""

import numpy as np
import pytest
import torch
from markupsafe import Markup

from interp_train.callbacks.capsule_panels import CapsulePanels, titles_of, varied_capsules
from interp_train.capsule_figures import reconstruction_figure, sweep_figure, vote_figure
from interp_train.learning.capsules.module import Reading
from interp_train.report.capsules import capsule_blocks
from interp_train.report.records import RunData
from interp_train.structures import BACKGROUND
from tests.learning.capsules.small_capsnet import Bars, small_capsnet, small_head, trained


def finished(folder, data=None, **changes):
    """The system, the names of the figures, and the record of a run with pictures."""
    system = small_capsnet(**changes)
    panels = CapsulePanels(num_images=4, num_varied=2, steps=3)
    trained(system, folder, callbacks=[panels], data=data)
    names = {path.name.partition("_epoch")[0] for path in (folder / "figures").glob("*.png")}
    with np.load(folder / "measures" / "panels" / "capsules.npz") as archive:
        return system, names, dict(archive)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return finished(tmp_path_factory.mktemp("run"))


def reading_of(system, record):
    pixels = torch.from_numpy(record["images"][:, :1]).float() / 255
    return system.read((pixels - 0.5) / 0.25)


def assert_same_bytes(found, images):
    torch.testing.assert_close(torch.from_numpy(found).float(), images * 255, rtol=0, atol=1.0)


def test_pictures_and_records_are_written(run):
    _, names, record = run
    assert names == {
        "capsules_drawn", "capsules_varied_0", "capsules_varied_1", "capsules_votes",
    }  # fmt: skip
    assert record["drawn"].shape == (4, 1, 3, 12, 12)
    assert record["varied_0"].shape == (5, 3, 3, 12, 12)
    assert record["votes"].shape == (4, 1, 12, 12)
    assert record["labels"].tolist() == [0, 2, 1, 0]


def test_images_are_drawn_from_the_longest_capsule(run):
    system, _, record = run
    reading = reading_of(system, record)
    assert record["lengths"] == pytest.approx(reading.lengths.numpy(), abs=1e-3)
    drawn = system.drawn(reading.capsules, reading.lengths.argmax(1))
    assert_same_bytes(record["drawn"][:, 0], drawn)


def test_one_atom_changes_along_a_row(run):
    system, _, record = run
    reading = reading_of(system, record)
    category = int(reading.lengths[1].argmax())
    for atom in range(5):
        for step, offset in enumerate((-0.25, 0.0, 0.25)):
            capsules = reading.capsules[1:2].clone()
            capsules[0, category, atom] += offset
            drawn = system.drawn(capsules, torch.tensor([category]))
            assert_same_bytes(record["varied_1"][atom, step], drawn[0])


def test_copies_differ_in_one_atom_of_one_capsule():
    capsules = torch.randn(1, 3, 2)
    copies = varied_capsules(capsules, 1, torch.tensor([-1.0, 0.5]))
    changes = copies - capsules
    assert changes[:, [0, 2]].abs().max() == 0
    wanted = torch.tensor([[-1.0, 0.0], [0.5, 0.0], [0.0, -1.0], [0.0, 0.5]])
    torch.testing.assert_close(changes[:, 1], wanted)


def test_each_of_two_objects_is_drawn(tmp_path):
    system, _, record = finished(tmp_path, data=Bars(overlapping=True))
    assert record["drawn"].shape == (4, 2, 3, 12, 12)
    reading = reading_of(system, record)
    second = reading.lengths.topk(2, 1).indices[:, 1]
    assert_same_bytes(record["drawn"][:, 1], system.drawn(reading.capsules, second))


def test_without_a_decoder_or_without_a_map_less_is_drawn(tmp_path):
    _, names, record = finished(tmp_path / "blind", reconstruction_weight=0.0)
    assert names == {"capsules_votes"}
    assert "drawn" not in record
    head = small_head(primary={"kernel_size": 8})
    _, names, record = finished(tmp_path / "point", head=head)
    assert "capsules_votes" not in names
    assert "votes" not in record


def test_titles_say_what_is_taken_for_what():
    system = small_capsnet()
    lengths = torch.tensor([[0.9, 0.2, 0.1], [0.1, 0.75, 0.2], [0.3, 0.1, 0.2]])
    empty = torch.zeros(0)
    batch = Bars().val.__getitems__([0, 0, 0])._replace(labels=torch.tensor([0, 0, BACKGROUND]))
    assert titles_of(system, batch, Reading(empty, lengths, empty, empty)) == [
        "top (0.90)", "top → left (0.75)", "background → top (0.30)",
    ]  # fmt: skip
    pair = (
        Bars(overlapping=True).val.__getitems__([0])._replace(object_labels=torch.tensor([[2, 0]]))
    )
    reading = Reading(empty, torch.tensor([[0.5, 0.1, 0.8]]), empty, empty)
    assert titles_of(system, pair, reading) == ["top + cross (0.50)"]


def test_figures_have_their_labels():
    images = torch.rand(2, 3, 6, 6)
    figure = reconstruction_figure(images, torch.rand(2, 2, 3, 6, 6), ["a → b (0.90)", "b"])
    assert [text.get_text() for text in figure.axes[0].texts] == [
        "a\n→ b (0.90)", "b", "image", "drawn", "drawn",
    ]  # fmt: skip
    offsets = [-0.25, -1e-9, 0.25]
    figure = sweep_figure(torch.rand(2, 3, 3, 6, 6), offsets, title="capsule of a")
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts == ["atom 0", "atom 1", "−0.25", "+0.00", "+0.25"]
    figure = vote_figure(images, torch.rand(2, 1, 6, 6), ["a", "b"])
    assert "routing coefficient" in figure.axes[1].get_title(loc="left")


def test_systems_without_capsules_are_refused():
    with pytest.raises(ValueError, match="must watch a system with capsules, .* got object"):
        CapsulePanels().on_validation_epoch_end(None, object())


def test_the_report_shows_them(run):
    _, _, record = run
    data = RunData(
        "capsules", "bars", 0, None, {}, {}, {}, {}, {}, {}, {"capsules": record}, {}, ()
    )
    ((title, _, body),) = capsule_blocks("bars", [data])
    assert title.endswith("bars: capsules")
    assert isinstance(body, Markup)
    assert body.count("data:image/webp") == 4
    assert "http" not in body
    empty = data._replace(panels={})
    assert capsule_blocks("bars", [empty]) == []
