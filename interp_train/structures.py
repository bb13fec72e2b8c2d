"""Named tuples that travel between the rooms of the house.

Conventions, for every field below:

* Coordinates are ``(x, y)`` in pixels of the network's input, pixel centres at integers.
* Boxes are ``(x_min, y_min, x_max, y_max)`` in the same coordinates.
* A missing annotation is NaN (coordinates, boxes) or a tensor with an axis of length 0
  (masks, prefix activations), never None.
* A label is the index of a category, 0 .. C-1; `BACKGROUND` marks an image of no category.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor

BACKGROUND = -1


class ImageBatch(NamedTuple):
    """Images without part annotations.

    Attributes:
        images: network input, normalised, float ``(N, 3, H, W)``. With cached prefix
            activations a training batch may leave it empty, ``(N, 0, 0, 0)``.
        labels: category index or `BACKGROUND`, long ``(N,)``.
        sample_ids: identity of each image in its data set, long ``(N,)``.
        boxes: object box, float ``(N, 4)``; NaN where the image has none.
        prefix_activations: output of the frozen prefix, ``(N, K, h, w)``; ``(N, 0, 0, 0)``
            where activations are not cached.
    """

    images: Tensor
    labels: Tensor
    sample_ids: Tensor
    boxes: Tensor
    prefix_activations: Tensor


class PartBatch(NamedTuple):
    """Images with part annotations; the first five fields are those of `ImageBatch`.

    Attributes:
        images: see `ImageBatch`.
        labels: see `ImageBatch`.
        sample_ids: see `ImageBatch`.
        boxes: see `ImageBatch`.
        prefix_activations: see `ImageBatch`.
        part_locations: landmark of each part, float ``(N, P, 2)``; NaN where not visible.
        part_boxes: box of each part, float ``(N, P, 4)``; NaN where not annotated.
        part_masks: region of each part, bool ``(N, P, H, W)``; ``(N, 0, 0, 0)`` without masks.
    """

    images: Tensor
    labels: Tensor
    sample_ids: Tensor
    boxes: Tensor
    prefix_activations: Tensor
    part_locations: Tensor
    part_boxes: Tensor
    part_masks: Tensor


class ViewBatch(NamedTuple):
    """Images of which several may be views of one sample; the first five fields of `ImageBatch`.

    Views of one sample have the same `sample_ids` and stand one after the other.

    Attributes:
        images: see `ImageBatch`.
        labels: see `ImageBatch`.
        sample_ids: see `ImageBatch`.
        boxes: see `ImageBatch`.
        prefix_activations: see `ImageBatch`.
        view_transforms: matrix that takes a point ``(x, y, 1)`` of the sample's photo to the
            view, float ``(N, 2, 3)``; NaN where unknown.
    """

    images: Tensor
    labels: Tensor
    sample_ids: Tensor
    boxes: Tensor
    prefix_activations: Tensor
    view_transforms: Tensor


class ConceptBatch(NamedTuple):
    """Images with dense concept labels.

    Attributes:
        images: see `ImageBatch`.
        labels: see `ImageBatch`.
        sample_ids: see `ImageBatch`.
        concept_maps: index of the concept at each pixel, one map per concept category
            (object, part, colour, texture, scene ...), 0 = none, of any integer type,
            ``(N, M, height, width)``; the maps show what the images show, at any resolution.
            A category whose concepts overlap may have several maps, side by side, which do not
            repeat a label at a pixel.
    """

    images: Tensor
    labels: Tensor
    sample_ids: Tensor
    concept_maps: Tensor


class FactorBatch(NamedTuple):
    """Images with known factors of variation; the first five fields are those of `ImageBatch`.

    Attributes:
        images: see `ImageBatch`.
        labels: see `ImageBatch`; the value of one of the factors.
        sample_ids: see `ImageBatch`.
        boxes: see `ImageBatch`.
        prefix_activations: see `ImageBatch`.
        factors: value of each factor, 0 .. its number of values - 1, long ``(N, F)``.
    """

    images: Tensor
    labels: Tensor
    sample_ids: Tensor
    boxes: Tensor
    prefix_activations: Tensor
    factors: Tensor


class OverlapBatch(NamedTuple):
    """Images in which several objects overlap; the first five fields are those of `ImageBatch`.

    Attributes:
        images: see `ImageBatch`.
        labels: see `ImageBatch`; the category of the first object.
        sample_ids: see `ImageBatch`.
        boxes: see `ImageBatch`.
        prefix_activations: see `ImageBatch`.
        object_labels: category of each object, all different, long ``(N, M)``.
        object_images: each object alone, ``(N, M, channels, H, W)``.
    """

    images: Tensor
    labels: Tensor
    sample_ids: Tensor
    boxes: Tensor
    prefix_activations: Tensor
    object_labels: Tensor
    object_images: Tensor


Batch = ImageBatch | PartBatch | FactorBatch | ViewBatch | OverlapBatch


class DetectionBatch(NamedTuple):
    """Images of any size with any number of objects each.

    Boxes are as torchvision's detectors take them: the image reaches from 0 to its width, so that
    a coordinate is 0.5 more than elsewhere in the house.

    Attributes:
        images: RGB in [0, 1], float, one ``(3, H_i, W_i)`` each; the detector resizes and
            normalises them.
        labels: category index of each object, long, one ``(M_i,)`` each; M_i may be 0.
        sample_ids: see `ImageBatch`.
        boxes: of each object, in pixels of its image, float, one ``(M_i, 4)`` each.
        ignored: objects that are neither learned nor counted (VOC's difficult ones, COCO's
            crowds), bool, one ``(M_i,)`` each.
        part_boxes: of the parts of each object, one ``(M_i, P, 4)`` each; NaN where not visible,
            P = 0 without parts.
    """

    images: Sequence[Tensor]
    labels: Sequence[Tensor]
    sample_ids: Tensor
    boxes: Sequence[Tensor]
    ignored: Sequence[Tensor]
    part_boxes: Sequence[Tensor]


class Detections(NamedTuple):
    """What a detector finds in one image, surest first.

    Attributes:
        boxes: ``(D, 4)``, in pixels of the image, as in `DetectionBatch`.
        scores: probability of the category, ``(D,)``.
        labels: category index, long ``(D,)``.
        trees: parse tree of each box over a grid of cells (`interp_train.and_or_graph.ParseTree`);
            empty for a detector without them.
        tree_scores: value of each tree, ``(D,)``; NaN without trees.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    trees: Sequence[Any]
    tree_scores: Tensor


class StepOutputs(NamedTuple):
    """What one forward pass of a learning system leaves for losses, metrics and callbacks.

    Attributes:
        logits: ``(N, C)``; ``(N, 0)`` of a detector.
        activations: layer's dotted name -> activations after ReLU and before a template
            mask, ``(N, K, h, w)``.
        loss_terms: name -> scalar; empty until the system has computed them.
        detections: one per image, of a detector in evaluation; else empty.
    """

    logits: Tensor
    activations: Mapping[str, Tensor]
    loss_terms: Mapping[str, Tensor]
    detections: Sequence[Detections] = ()


class Target(NamedTuple):
    """What a heatmap or a picture is about: units of a layer.

    Attributes:
        layer: dotted module name; None is the output layer, whose units are the categories.
        units: unit indices, long: one per image for a heatmap, ``(N,)``; one per picture for
            a unit visualizer, ``(U,)``.
    """

    layer: str | None
    units: Tensor


class LayerGeometry(NamedTuple):
    """Where the cells of a feature map lie in the image.

    The receptive field of the cell with 0-based index i has its centre at pixel
    ``offset + stride * i`` (x and y alike) and is ``size`` pixels wide.
    """

    stride: float
    offset: float
    size: float


class DataInfo(NamedTuple):
    """What a network, a measure or a report must know about a data set.

    Attributes:
        name: short name, e.g. ``"cub"``.
        class_names: one name per category; the background has none.
        part_names: one name per part; empty without part annotations.
        part_groups: group name -> indices of its parts, e.g. ``{"head": (1, 4, 5)}``; empty
            without parts.
        instability_parts: indices of the landmarks that location instability uses.
        image_size: side of the network's square input, in pixels.
        channels: number of image channels.
        mean: per-channel mean that normalisation subtracts (images in [0, 1]).
        std: per-channel standard deviation that normalisation divides by.
        fingerprint: hash of the data and of what was selected from it.
        licence: terms of use, for the report.
    """

    name: str
    class_names: tuple[str, ...]
    part_names: tuple[str, ...]
    part_groups: Mapping[str, tuple[int, ...]]
    instability_parts: tuple[int, ...]
    image_size: int
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    fingerprint: str
    licence: str
