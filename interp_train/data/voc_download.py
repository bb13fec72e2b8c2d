"""Fetch Pascal VOC from the addresses that torchvision knows.

M. Everingham, L. Van Gool, C. K. I. Williams, J. Winn, A. Zisserman, "The Pascal Visual Object
Classes (VOC) Challenge", International Journal of Computer Vision 88, 2010.
"""

import logging
import os
from collections.abc import Sequence
from pathlib import Path

from torchvision.datasets import VOCDetection

from interp_train.checks import check_choice

logger = logging.getLogger(__name__)

# Folder's name -> lists of its photos; the test photos of 2012 have no public boxes.
LISTS = {
    "VOC2007": ("train", "val", "trainval", "test"),
    "VOC2012": ("train", "val", "trainval"),
}


def download_folder(root: str | None) -> Path:
    """Where the photos belong that `root` asks for: ``.../VOCdevkit/VOC2007`` or ``VOC2012``.

    Args:
        root: None is ``VOCdevkit/VOC2007`` below ``$INTERP_TRAIN_DATA``; a relative folder also
            lies there, if the variable is set.

    Raises:
        ValueError: if `root` ends otherwise, or neither it nor the variable is given.
    """
    base = os.environ.get("INTERP_TRAIN_DATA")
    if root is None and not base:
        raise ValueError(
            "`root` must be given for a download where INTERP_TRAIN_DATA is not set, but got None. "
            "Set data.root=<folder>/VOCdevkit/VOC2007."
        )
    folder = Path(root or "VOCdevkit/VOC2007").expanduser()
    if folder.name not in LISTS or folder.parent.name != "VOCdevkit":
        raise ValueError(
            f"`root` must end with VOCdevkit/VOC2007 or VOCdevkit/VOC2012 for a download, as the "
            f"archives do, but got {str(root)!r}. Set data.download=false for photos of your own."
        )
    if base and not folder.is_absolute() and not folder.is_dir():
        folder = Path(base).expanduser() / folder
    return folder


def download_voc(root: str | None, lists: Sequence[str]) -> Path:
    """Fetch the photos and boxes of some lists, unless they are there.

    Args:
        root: see `download_folder`.
        lists: names of files in ``ImageSets/Main``, without ``.txt``.

    Returns:
        The folder that holds ``Annotations``.

    Raises:
        ValueError: for a list that VOC does not have; see also `download_folder`.
        OSError: if an archive cannot be fetched or is broken.
    """
    folder = download_folder(root)
    for name in lists:
        check_choice(f"list of {folder.name}", name, LISTS[folder.name])
    above = folder.parents[1]
    for name in dict.fromkeys(lists):
        if not is_complete(folder, name):
            logger.info("Fetching %s (%s) into %s", folder.name, name, above)
            _fetch(folder, name)
    return folder


def _fetch(folder: Path, name: str) -> None:
    above = folder.parents[1]
    above.mkdir(parents=True, exist_ok=True)
    year = folder.name.removeprefix("VOC")
    try:
        VOCDetection(str(above), year=year, image_set=name, download=True)
    except (OSError, RuntimeError) as error:
        raise OSError(
            f"the archive of {folder.name} with the list {name!r} must be within reach, but could "
            f"not be fetched or unpacked: {error}. Unpack it in {str(above)!r} by hand, so that "
            f"{str(folder / 'Annotations')!r} exists."
        ) from error


def is_complete(folder: Path, name: str) -> bool:
    """Whether a list and all its photos and boxes are there: an extraction may have been cut."""
    path = folder / "ImageSets" / "Main" / f"{name}.txt"
    if not path.is_file():
        return False
    ids = [line.split()[0] for line in path.read_text("utf-8").splitlines() if line.strip()]
    files = ((folder / "JPEGImages" / f"{key}.jpg", folder / "Annotations" / f"{key}.xml")
             for key in ids)  # fmt: skip
    return all(photo.is_file() and boxes.is_file() for photo, boxes in files)
