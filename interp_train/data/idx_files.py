"""Reading idx files, the format of MNIST: a header of big-endian numbers, then bytes.

Format: two zero bytes, a type (8 = unsigned byte), the number of axes, one length of four bytes
per axis, and the values (Y. LeCun, C. Cortes, C. Burges, "The MNIST database").
"""

import gzip
import math
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_UNSIGNED_BYTE = 8
FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}


def idx_folder(root: Path) -> Path:
    """The folder with the four files at or below `root`, as torchvision and others lay them out.

    Raises:
        FileNotFoundError: naming what is missing.
    """
    places = [root, root / "raw", *sorted(root.glob("*/raw")), *sorted(root.glob("*"))]
    wanted = [name for pair in FILES.values() for name in pair]
    for place in places:
        if all(_file(place, name) is not None for name in wanted):
            return place
    best = max(places, key=lambda place: sum(_file(place, n) is not None for n in wanted))
    missing = [name for name in wanted if _file(best, name) is None]
    raise FileNotFoundError(
        f"`root` must hold the files {', '.join(wanted)} (also as .gz), itself or in a folder "
        f"raw, but below {str(root)!r} there is no {', '.join(missing)}. Download them, or set "
        f"data.root."
    )


def idx_path(folder: Path, name: str) -> Path:
    """The file `name` in `folder`, plain or gzipped; `idx_folder` has seen it."""
    found = _file(folder, name)
    assert found is not None
    return found


def _file(folder: Path, name: str) -> Path | None:
    candidates = (folder / name, folder / f"{name}.gz", folder / name.replace("-idx", ".idx"))
    return next((path for path in candidates if path.is_file()), None)


def read_idx(path: Path, axes: int) -> NDArray[np.uint8]:
    """The values of an idx file, plain or gzipped.

    Args:
        path: of the file.
        axes: how many it must have.

    Raises:
        ValueError: if the file is none, holds something else, or is cut short.
    """
    try:
        packed = path.read_bytes()
        content = gzip.decompress(packed) if packed[:2] == b"\x1f\x8b" else packed
    except (OSError, EOFError, zlib.error) as error:
        raise _broken(path, f"it cannot be unpacked ({error})") from error
    if len(content) < 4 or content[:2] != b"\x00\x00":
        raise _broken(path, "it does not begin with two zero bytes")
    if content[2] != _UNSIGNED_BYTE:
        raise _broken(path, f"its values have type {content[2]}, not {_UNSIGNED_BYTE} (bytes)")
    if content[3] != axes:
        raise _broken(path, f"it has {content[3]} axes, not {axes}")
    start = 4 + 4 * axes
    shape: Sequence[int] = np.frombuffer(content[4:start], ">u4").tolist()
    if len(shape) < axes or len(content) - start != math.prod(shape):
        raise _broken(path, f"it announces {list(shape)} values, but holds {len(content) - start}")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def _broken(path: Path, why: str) -> ValueError:
    return ValueError(
        f"`root` must hold readable idx files, but {str(path)!r} is none: {why}. Get the file "
        f"again."
    )
