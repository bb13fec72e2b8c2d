"""Background crops of photos, as images of no category."""

import math
import random

from interp_train.data.views import Box

MAX_OVERLAP = 0.1
_TRIES = 200
_CANDIDATES = 8


def background_box(
    photo_size: tuple[int, int],
    object_box: Box,
    source: random.Random,
    *,
    extent: tuple[float, float] = (0.25, 0.8),
) -> Box | None:
    """A random region of a photo that shows (almost) nothing of the object.

    Of several regions that fit, the one whose area is nearest to the object's is taken, so that
    the size, and with it the sharpness after resizing, tells as little as possible.

    Args:
        photo_size: width and height.
        object_box: in the photo's pixels.
        source: of randomness.
        extent: range of the region's mean side, as a share of the photo's shorter side.

    Returns:
        A box, or None where the object leaves no room.
    """
    width, height = photo_size
    fitting: list[Box] = []
    for _ in range(_TRIES):
        side = source.uniform(*extent) * min(width, height)
        stretch = 2 ** source.uniform(-0.4, 0.4)
        box_width, box_height = min(side * stretch, width), min(side / stretch, height)
        left = source.uniform(-0.5, width - 0.5 - box_width)
        top = source.uniform(-0.5, height - 0.5 - box_height)
        box = (left, top, left + box_width, top + box_height)
        if is_background(box, object_box):
            fitting.append(box)
        if len(fitting) == _CANDIDATES:
            break
    wanted = math.log(max(_area(object_box), 1.0))
    return min(fitting, key=lambda box: abs(math.log(_area(box)) - wanted), default=None)


def is_background(box: Box, object_box: Box) -> bool:
    """Whether box and object share at most `MAX_OVERLAP` of the area of either."""
    shared = _shared_area(box, object_box)
    return shared <= MAX_OVERLAP * min(_area(box), _area(object_box))


def _area(box: Box) -> float:
    return max(box[2] - box[0], 0.0) * max(box[3] - box[1], 0.0)


def _shared_area(one: Box, other: Box) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return max(width, 0.0) * max(height, 0.0)
