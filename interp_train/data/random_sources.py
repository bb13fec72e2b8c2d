"""Random sources that follow from whole numbers alone, such as (seed, epoch, sample id)."""

import random


def random_key(*numbers: int) -> int:
    """One whole number for a tuple of them, each >= 0 and below 2**40."""
    key = len(numbers)
    for number in numbers:
        key = (key << 40) + number
    return key


def random_source(*numbers: int) -> random.Random:
    """A random source that follows from `numbers`, each >= 0 and below 2**40, alone."""
    return random.Random(random_key(*numbers))
