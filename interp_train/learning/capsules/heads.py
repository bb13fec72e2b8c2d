"""What capsules stand in for: a backbone's classifier, and a decoder that draws what one holds.

Sabour, Frosst & Hinton, "Dynamic Routing Between Capsules", NIPS 2017.
"""

from collections.abc import Callable, Sequence
from typing import final

import torch
from torch import Tensor, nn

from interp_train.learning.capsules import functional
from interp_train.learning.capsules.layers import CategoryCapsules, PrimaryCapsules


@final
class CapsuleHead(nn.Module):
    """Capsules in the place of a backbone's classifier; puts out how present categories are.

    Layers are called ``primary.convolution`` (atoms), ``primary.lengths`` (lengths of the primary
    capsules), ``categories`` (capsules ``(N, C, O)``) and ``categories.coupling``.

    Args:
        in_channels: units of the backbone's last map.
        num_outputs: categories.
        in_size: height and width of that map.
        primary: partial of `PrimaryCapsules`.
        categories: partial of `CategoryCapsules`.
        shared: positions share weights, and their places are added to what they predict; for
            many categories or large maps.

    Attributes:
        taps: ``primary``, ``capsules`` and ``last``.
        in_size: see above.
        grid: height and width of the map of primary capsules.

    Raises:
        ValueError: if there are fewer than two categories, or the map is too small.
    """

    def __init__(
        self,
        in_channels: int,
        num_outputs: int,
        *,
        in_size: tuple[int, int],
        primary: Callable[..., PrimaryCapsules] = PrimaryCapsules,
        categories: Callable[..., CategoryCapsules] = CategoryCapsules,
        shared: bool = False,
    ) -> None:
        super().__init__()
        if num_outputs < 2:
            raise ValueError(
                f"`num_outputs` must be at least 2, because capsules share themselves out over "
                f"categories, but got {num_outputs}. Use learning=classifier for one category."
            )
        self.in_size = (int(in_size[0]), int(in_size[1]))
        self.primary = primary(in_channels=in_channels)
        self.grid = self.primary.map_size(self.in_size)
        types, atoms = self.primary.num_types, self.primary.atoms
        more = {"num_types": types, "coordinates": self.grid} if shared else {}
        self.categories = categories(
            num_inputs=types * self.grid[0] * self.grid[1],
            in_atoms=atoms,
            num_outputs=num_outputs,
            **more,
        )
        last = "primary.lengths" if self.primary.squashed else "primary.convolution"
        self.taps = {"primary": "primary.lengths", "capsules": "categories", "last": last}

    def forward(self, maps: Tensor) -> Tensor:
        """Logits ``(N, C)`` whose sigmoids are the lengths of the category capsules.

        Raises:
            ValueError: if the map does not have the size `in_size`.
        """
        if maps.shape[-2:] != self.in_size:
            raise ValueError(
                f"`maps` must have {self.in_size[0]}x{self.in_size[1]} cells, the size the head "
                f"was built for, but got {tuple(maps.shape)}. Use images of the size the network "
                "was built with."
            )
        found = functional.lengths(self.categories(self.primary(maps)))
        return torch.logit(found, eps=1e-6)


@final
class CapsuleDecoder(nn.Module):
    """Draws the image from the capsules of chosen categories; all others are set to zero.

    Args:
        num_categories: capsules.
        atoms: of each.
        image_shape: channels, height, width.
        hidden: units of the hidden layers.
    """

    def __init__(
        self,
        num_categories: int,
        atoms: int,
        image_shape: tuple[int, int, int],
        hidden: Sequence[int] = (512, 1024),
    ) -> None:
        super().__init__()
        self.image_shape = image_shape
        layers: list[nn.Module] = []
        units = num_categories * atoms
        for size in hidden:
            layers += [nn.Linear(units, size), nn.ReLU()]
            units = size
        channels, height, width = image_shape
        layers += [nn.Linear(units, channels * height * width), nn.Sigmoid()]
        self.layers = nn.Sequential(*layers)

    def forward(self, capsules: Tensor, chosen: Tensor) -> Tensor:
        """Images in [0, 1], ``(N, channels, height, width)``.

        Args:
            capsules: ``(N, J, O)``.
            chosen: 1 for the capsules of each image that are kept, else 0, ``(N, J)``.
        """
        images: Tensor = self.layers((capsules * chosen[..., None].to(capsules)).flatten(1))
        return images.view(-1, *self.image_shape)
