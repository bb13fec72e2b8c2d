"""Photos of one category with background crops of the same photos as samples of no category."""

import numpy as np

from interp_train.data.backgrounds import background_box
from interp_train.data.photos import Photo
from interp_train.data.random_sources import random_source
from interp_train.structures import BACKGROUND

# Sample ids of background crops: that of the photo, plus this for each crop of it.
BACKGROUND_ID_STEP = 1_000_000
_CROP_STREAM = 71  # keeps the crops' random numbers apart from those of the augmentation


def with_backgrounds(photo: Photo, crops: int) -> list[Photo]:
    """A photo of an object, and crops of the same photo beside the object.

    The crops follow from the photo's sample id alone.

    Args:
        photo: of known size, with the object's box.
        crops: how many, where the object leaves room.
    """
    assert photo.box is not None
    samples = [photo]
    nothing = np.full_like(photo.part_locations, np.nan)
    for crop in range(crops):
        source = random_source(_CROP_STREAM, crop, photo.sample_id)
        region = background_box(photo.size, photo.box, source)
        if region is not None:
            samples.append(
                photo._replace(
                    label=BACKGROUND,
                    sample_id=photo.sample_id + (crop + 1) * BACKGROUND_ID_STEP,
                    region=region,
                    box=None,
                    avoided=photo.box,
                    part_locations=nothing,
                    part_boxes=np.full((len(nothing), 4), np.nan),
                )
            )
    return samples
