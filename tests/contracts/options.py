"""The methods that the contract tests run: every YAML of a group."""

from interp_train.targets import build
from tests.guards.constructors import definitions
from tests.guards.sources import REPOSITORY

SMALL = {"image_size": 64, "widths": [4, 6, 8, 8]}


def options(group):
    """Names of the YAML files of a group, without ``none``."""
    names = (path.stem for path in (REPOSITORY / "conf" / group).glob("*.yaml"))
    return sorted(name for name in names if name != "none")


def node(group, name):
    """The node that a YAML file describes, with what it inherits."""
    files = {file.path.stem: file for file in definitions(REPOSITORY) if file.group == group}
    inherited = {}
    for parent in files[name].parents:
        inherited.update(node(group, parent))
    return {**inherited, **(files[name].values or {})}


def built(group, name, **changes):
    """The object that a YAML file describes."""
    return build({**node(group, name), **changes}, f"{group}/{name}")


def small_network(num_categories=3, **changes):
    """An untrained network whose steps take milliseconds."""
    network = built("backbone", "small_cnn", **SMALL, **changes)
    network.resize_classifier(num_categories)
    return network
