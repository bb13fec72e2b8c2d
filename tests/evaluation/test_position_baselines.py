import torch

from interp_train.evaluation.position_baselines import (
    mean_landmarks,
    measured_followers,
    position_baselines,
    random_positions,
    scrambled,
)
from tests.evaluation.tables import FRAME, random_table


def slow_splitmix(number, seed):
    """The same rounds on Python's unbounded integers, cut to 64 bits."""
    word = 2**64 - 1
    first, second = 0x3F58476D1CE4E5B9, 0x14D049BB133111EB
    mixed = (number * 0x1E3779B97F4A7C15 + (seed + 1) * first % 2**62) & word
    for multiplier, shift in ((first, 30), (second, 27), (1, 31)):
        mixed = ((mixed ^ (mixed >> shift)) * multiplier) & word
    return mixed & (2**62 - 1)


def test_scrambled_numbers_agree_with_unbounded_integers():
    numbers = torch.tensor([0, 1, 2, 77, 2**40 + 3])
    for seed in (0, 5):
        expected = [slow_splitmix(int(number), seed) for number in numbers]
        assert scrambled(numbers, seed).tolist() == expected


def test_random_cells_are_uniform_and_belong_to_the_image():
    cells = FRAME.cells_of(random_positions(torch.arange(3000), FRAME, 0, 12))
    counts = cells.flatten().bincount(minlength=36)
    assert len(counts) == 36
    assert float(((counts - 1000.0) ** 2 / 1000).sum()) < 80  # chi-square, 35 degrees
    some = random_positions(torch.tensor([17, 5]), FRAME, 0, 12)
    assert torch.equal(FRAME.cells_of(some), cells[[17, 5]])
    assert not torch.equal(random_positions(torch.arange(9), FRAME, 1, 12), some[:1])


def test_places_by_hand():
    table = random_table(images=2, parts=2, background=0)
    table.boxes[:] = torch.tensor([[0.0, 0.0, 40.0, 80.0], [20.0, 0.0, 100.0, 40.0]])
    # Part 0 at (.25, .5) and (.75, .5) of the boxes; part 1 only in the first image.
    table.part_locations[:] = torch.tensor([[[10.0, 40.0], [38.0, 10.0]], [[80.0, 20.0]] * 2])
    table.part_locations[1, 1] = torch.nan
    assert mean_landmarks(table)[:, 0].tolist() == [[20.0, 40.0], [60.0, 20.0]]
    baselines = position_baselines(table, FRAME)
    # Cell centres are 7.5 + 16 i; the centre of the image, 47.5, lies between 39.5 and 55.5.
    assert baselines["constant"].positions[0, 0].tolist() == [39.5, 39.5]
    assert baselines["object_centre"].positions[:, 0].tolist() == [[23.5, 39.5], [55.5, 23.5]]
    assert baselines["mean_landmark"].positions[:, 0].tolist() == [[23.5, 39.5], [55.5, 23.5]]
    assert baselines["oracle"].positions[:, 0].tolist() == [[7.5, 39.5], [87.5, 23.5]]
    # (38, 10) of the first box is (.95, .125): (96, 5) in the second image.
    assert baselines["oracle"].positions[1, 1].tolist() == [87.5, 7.5]
    assert all((baseline.values == 1).all() for baseline in baselines.values())
    assert baselines["random"].positions.shape == (2, 16, 2)


def test_only_what_the_annotations_allow():
    table = random_table()
    table.part_locations[:] = torch.nan
    assert set(position_baselines(table, FRAME)) == {"constant", "random", "object_centre"}
    table.boxes[:] = torch.nan
    assert set(position_baselines(table, FRAME)) == {"constant", "random"}
    table = random_table()
    table.boxes[:] = torch.nan
    assert set(position_baselines(table, FRAME)) == {"constant", "random", "oracle"}


def test_followers_of_parts_that_a_category_lacks_are_not_scored():
    table = random_table(classes=2)
    table.part_locations[table.labels == 1, 2] = torch.nan
    baselines = position_baselines(table, FRAME)
    kept = measured_followers("oracle", baselines["oracle"], 2)
    assert kept.tolist() == [[True, True, True], [True, True, False]]
    assert measured_followers("constant", baselines["constant"], 2).tolist() == [[True], [True]]
