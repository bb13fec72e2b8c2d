"""Where configuration files lie: the package's own, and a folder that the user adds."""

import os
from pathlib import Path

import interp_train

CONFIG_DIR_VARIABLE = "INTERP_TRAIN_CONFIG_DIR"


def config_dir() -> Path:
    """The folder of YAML files: inside an installed package, else beside it in the repository."""
    package = Path(interp_train.__file__).parent
    inside = package / "conf"
    return inside if (inside / "train.yaml").is_file() else package.parent / "conf"


def added_config_dir() -> Path | None:
    """The folder of --config-dir, which the processes of studies and sweeps inherit."""
    folder = os.environ.get(CONFIG_DIR_VARIABLE)
    return Path(folder) if folder else None
