"""Image files that belong to no data set, as input of a network.

A folder stands for the images directly inside it, in the order of their names.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from interp_train.checks import check_choice, check_range
from interp_train.data.views import View, normalised
from interp_train.structures import DataInfo

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
FITS = ("stretch", "centre")


def image_paths(given: Sequence[str | Path] | str | Path) -> list[Path]:
    """The image files that were named, or that lie in the folders that were named.

    Args:
        given: files and folders; files may have any suffix.

    Raises:
        FileNotFoundError: if one does not exist, or a folder holds no image.
        ValueError: if none is named.
    """
    listed = [given] if isinstance(given, str | Path) else list(given)
    if not listed:
        raise ValueError(
            "`images` must name at least one image file or folder of images, but is empty. "
            "Give images=[<file>, ...]."
        )
    found: list[Path] = []
    for place in map(Path, listed):
        if place.is_dir():
            inside = [path for path in sorted(place.iterdir()) if path.suffix.lower() in SUFFIXES]
            if not inside:
                raise FileNotFoundError(
                    f"`images` must name image files or folders that hold some, but in "
                    f"{str(place)!r} there is none ({', '.join(SUFFIXES)})."
                )
            found += inside
        elif place.is_file():
            found.append(place)
        else:
            raise FileNotFoundError(
                f"`images` must name files or folders that exist, but {str(place)!r} does not. "
                f"Relative paths start at {str(Path.cwd())!r}."
            )
    return found


def read_images(paths: Sequence[Path], info: DataInfo, fit: str = "stretch") -> Tensor:
    """Network input of image files, float ``(N, channels, image_size, image_size)``.

    Photos are turned as their camera noted. They become as large as the network's input, with
    antialias.

    Args:
        paths: of the files.
        info: size, channels (1 or 3) and normalisation of the input.
        fit: ``"stretch"`` shows the whole photo, as the package's data sets do with what they
            show; ``"centre"`` the largest square in its middle.

    Raises:
        ValueError: if a file is no image; names it.
    """
    check_choice("fit", fit, FITS)
    check_range("channels", info.channels, 1, 3)
    views = torch.stack([_view(path, info, fit) for path in paths])
    return normalised(views, info.mean, info.std)


def read_pixels(path: Path, mode: str = "RGB") -> Tensor:
    """A photo as its camera meant it, uint8 ``(channels, H, W)``.

    Args:
        path: of the file.
        mode: ``"RGB"`` or ``"L"``.

    Raises:
        ValueError: if the file is no image; names it.
    """
    try:
        with Image.open(path) as image:
            pixels = np.array(ImageOps.exif_transpose(image).convert(mode))
    except Exception as error:  # decoders raise whatever they meet in a broken file
        raise ValueError(
            f"`images` must name readable images, but {str(path)!r} is none: {error}. Replace the "
            f"file, or leave it out."
        ) from error
    return torch.from_numpy(pixels.reshape(*pixels.shape[:2], -1)).permute(2, 0, 1)


def _view(path: Path, info: DataInfo, fit: str) -> Tensor:
    photo = read_pixels(path, "L" if info.channels == 1 else "RGB")
    height, width = photo.shape[-2:]
    view = View(0, 0, width, height)
    if fit == "centre":
        side = min(height, width)
        view = View((width - side) // 2, (height - side) // 2, side, side)
    return view.render(photo, info.image_size)
