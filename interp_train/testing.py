"""Contract checks, also for methods that live outside this repository.

Each check raises `ContractError` with the rule that is broken. They work on copies, so what is
passed in is left alone.

Example:
    def test_my_heatmaps_keep_the_contract():
        check_heatmap_method(MyHeatmaps(), torchvision.models.resnet18(num_classes=3))
"""

import copy
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from interp_train.activations import ActivationTap
from interp_train.backbones.backbone import Backbone
from interp_train.contract_runs import call_in_validation, fit_and_validate, run_on_two_processes
from interp_train.contract_state import ContractError, equal, leaves_no_trace, require
from interp_train.learning.classifier import Classifier, logistic_losses
from interp_train.learning.objective_terms import SecondPath, objective_terms
from interp_train.protocols import FilterObjective, HeatmapMethod, UnitVisualizer
from interp_train.structures import BACKGROUND, DataInfo, ImageBatch, StepOutputs, Target

__all__ = [
    "ContractError",
    "check_filter_objective",
    "check_heatmap_method",
    "check_metric_merges",
    "check_unit_visualizer",
    "leaves_no_trace",
    "run_on_two_processes",
]

_IMAGES = 4
_EPOCH = 5  # an objective may start after the first epoch


# -- heatmaps ------------------------------------------------------------------------------


def check_heatmap_method(
    method: HeatmapMethod,
    network: nn.Module,
    *,
    image_size: int = 64,
    target: Target | None = None,
    seed: int = 0,
) -> None:
    """Shape, finite values >= 0, no trace on the network, the same result under one seed.

    Runs outside and inside `no_grad` and inference mode, and in the validation of ``fit`` and
    of ``validate``.

    Args:
        method: what is checked.
        network: puts out logits ``(N, C)``; a copy of it is used.
        image_size: side of the images, in pixels.
        target: of 4 images; None asks for units 0 .. 3 (modulo C) of the output layer.
        seed: of the images and before each call.

    Raises:
        ContractError: naming the rule that is broken.
    """
    network = copy.deepcopy(network)
    images = _random_images(network, image_size, seed)
    target = target or _first_units(network, images)
    _mix_state(network, seed)
    call = functools.partial(_checked_heatmap, method, target=target, seed=seed)
    _check_calls(call, network, images, "Heatmaps must be the same under one seed")


def _checked_heatmap(
    method: HeatmapMethod, network: nn.Module, images: Tensor, *, target: Target, seed: int
) -> Tensor:
    torch.manual_seed(seed)
    with leaves_no_trace(network, images, target.units):
        heatmaps = method(network, images, target)
    wanted = (len(images), 1, *images.shape[2:])
    require(
        tuple(heatmaps.shape) == wanted,
        f"Heatmaps must have shape {wanted}, but got {tuple(heatmaps.shape)}.",
    )
    require(bool(heatmaps.isfinite().all()), "Heatmaps must be finite, but some values are not.")
    require(bool((heatmaps >= 0).all()), f"Heatmaps must be >= 0, but got {heatmaps.min():.3g}.")
    require(not heatmaps.requires_grad, "Heatmaps must not carry a graph; detach them.")
    return heatmaps.clone()


def _check_calls(
    call: Callable[[nn.Module, Tensor], Tensor], network: nn.Module, images: Tensor, rule: str
) -> None:
    """The same result in every gradient mode, and a call in each kind of validation."""
    first = call(network, images)
    for mode in (torch.enable_grad, torch.no_grad, torch.inference_mode):
        with mode():
            again = call(network, images)
        off = (first - again).abs().max()
        message = f"{rule}, but they differ by {off:.2g} (second call under torch.{mode.__name__})."
        require(torch.equal(first, again), message)
    what, calls = rule.split()[0], call_in_validation(network, images, call)
    require(calls == 2, f"{what} must be possible in the validation of fit and of validate.")


def _random_images(network: nn.Module, size: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    channels: int = getattr(network, "in_channels", 3)
    return torch.randn(_IMAGES, channels, size, size, generator=generator)


def _first_units(network: nn.Module, images: Tensor) -> Target:
    with torch.no_grad():
        num_units = copy.deepcopy(network).eval()(images).shape[1]
    return Target(None, torch.arange(len(images)) % num_units)


def _mix_state(network: nn.Module, seed: int) -> None:
    """Half of the gradients accumulated, half of the modules in training mode."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in list(network.parameters())[::2]:
        parameter.grad = torch.randn(parameter.shape, generator=generator).to(parameter)
    for number, module in enumerate(network.modules()):
        module.training = number % 2 == 0


# -- unit visualizers ----------------------------------------------------------------------


def check_unit_visualizer(
    method: UnitVisualizer,
    network: nn.Module,
    *,
    image_size: int = 64,
    target: Target | None = None,
    seed: int = 0,
) -> None:
    """Shape, values in [0, 1], no trace on the network, the same result whatever seed torch has.

    Runs where `check_heatmap_method` does.

    Args:
        method: what is checked.
        network: puts out logits ``(N, C)``; a copy of it is used.
        image_size: side of the images, in pixels.
        target: 4 units, as there are 4 images; None asks for units 0 .. 3 (modulo C) of the
            output layer.
        seed: of the images.

    Raises:
        ContractError: naming the rule that is broken.
    """
    network = copy.deepcopy(network)
    images = _random_images(network, image_size, seed)
    target = target or _first_units(network, images)
    _mix_state(network, seed)
    call = functools.partial(_checked_pictures, method, target=target)
    _check_calls(call, network, images, "Pictures must be the same in every call")


def _checked_pictures(
    method: UnitVisualizer, network: nn.Module, images: Tensor, *, target: Target
) -> Tensor:
    with leaves_no_trace(network, images, target.units):
        pictures = method(network, target, images)
    shape = tuple(pictures.shape)
    fits = len(shape) == 4 and shape[:2] == (len(target.units), 3)
    rule = f"({len(target.units)}, 3, height, width)"
    require(fits, f"Pictures must have shape {rule}, but got {shape}.")
    require(pictures.dtype == torch.float32, f"Pictures must be float32, not {pictures.dtype}.")
    inside = bool(((pictures >= 0) & (pictures <= 1)).all())
    require(inside, "Pictures must lie in [0, 1], but some values do not.")
    require(not pictures.requires_grad, "Pictures must not carry a graph; detach them.")
    return pictures.clone()


# -- filter objectives ---------------------------------------------------------------------


def check_filter_objective(
    objective: FilterObjective,
    network: Backbone,
    *,
    num_categories: int = 3,
    image_size: int = 64,
    seed: int = 0,
) -> None:
    """Named finite scalars, a gradient, no trace, rest in evaluation, the same under one seed.

    Also with background images only, with one image, under bf16 autocast, and in a classifier
    that is fitted and validated.

    Args:
        objective: not attached yet; copies of it are used.
        network: puts out logits ``(N, num_categories)``; copies of it are used.
        num_categories: C.
        image_size: side of the images, in pixels.
        seed: of the images and labels.

    Raises:
        ContractError: naming the rule that is broken.
    """
    check = functools.partial(
        _objective_results, objective, network, num_categories=num_categories, seed=seed
    )
    images = _random_images(network, image_size, seed)
    labels = torch.arange(_IMAGES) % (num_categories + 1) - 1  # BACKGROUND comes first
    terms, gradients = check(images, labels)
    again_terms, again_gradients = check(images, labels)
    require(equal(terms, again_terms), "Loss terms must be the same under one seed.")
    require(equal(gradients, again_gradients), "Gradients must be the same under one seed.")
    check(images, torch.full_like(labels, BACKGROUND))
    check(images[:1], labels[-1:])
    with torch.autocast("cpu", torch.bfloat16):
        check(images, labels)
    _check_rest(objective, network, images, labels, num_categories)
    _fit_classifier(objective, network, images, labels, num_categories)


def _attached(
    objective: FilterObjective, network: Backbone, num_categories: int
) -> tuple[Any, Backbone, list[str]]:
    """Fresh copies, attached, and the dotted names of the objective's layers."""
    objective, network = copy.deepcopy((objective, network))
    objective.attach(network, num_categories)
    return objective, network, [network.resolve(tap) for tap in objective.taps]


def _objective_results(
    objective: FilterObjective,
    network: Backbone,
    images: Tensor,
    labels: Tensor,
    *,
    num_categories: int,
    seed: int,
) -> tuple[dict[str, Tensor], list[Tensor]]:
    """Terms of the second training step of fresh copies, and their gradients at the weights."""
    attached, network, layers = _attached(objective, network, num_categories)
    attached.train()
    network.train()
    weights = [weight for weight in network.parameters() if weight.requires_grad]
    terms: dict[str, Tensor] = {}
    gradients: list[Tensor] = []
    for _ in range(2):  # running statistics may need a step to know anything
        torch.manual_seed(seed)
        with ActivationTap(network, layers) as tap:
            logits = network(images)
        activations = tap.take()
        with leaves_no_trace(network, labels, logits, *activations.values()):
            terms = _terms(attached, network, StepOutputs(logits, activations, {}), labels)
        _check_scalars(terms, "Loss terms")
        # Terms may be 0 and carry an injected gradient, which the weights must get.
        total = logits.float().sum() * 0 + torch.stack(list(terms.values())).sum()
        found = torch.autograd.grad(total, weights, allow_unused=True)
        gradients = [gradient for gradient in found if gradient is not None]
    finite = all(bool(gradient.isfinite().all()) for gradient in gradients)
    require(finite, "Gradients of the loss terms must be finite, but some values are not.")
    measured = attached.measurements()
    _check_scalars(measured, "Measurements")
    attached = [name for name, value in measured.items() if value.requires_grad]
    require(not attached, f"Measurements must be detached, but these are not: {attached}.")
    return {name: term.detach().clone() for name, term in terms.items()}, gradients


def _terms(
    objective: Any, network: Backbone, outputs: StepOutputs, labels: Tensor
) -> dict[str, Tensor]:
    path = SecondPath(network, labels, logistic_losses)
    batch = _image_batch(outputs.logits.new_zeros(len(labels), 0, 0, 0), labels)
    return objective_terms(objective, outputs, batch, path, _EPOCH)


def _image_batch(images: Tensor, labels: Tensor) -> ImageBatch:
    boxes, none = torch.full((len(labels), 4), torch.nan), images.new_zeros(len(labels), 0, 0, 0)
    return ImageBatch(images, labels, torch.arange(len(labels)), boxes, none)


def _check_scalars(values: Mapping[str, Tensor], what: str) -> None:
    for name, value in values.items():
        require(isinstance(name, str), f"{what} must have names, but one is {name!r}.")
        scalar = isinstance(value, Tensor) and value.dim() == 0
        require(scalar, f"{what} must be scalar tensors, but {name!r} is {value!r}.")
        finite = bool(value.isfinite())
        require(finite, f"{what} must be finite, but {name!r} is {value.item()}.")


def _check_rest(
    objective: FilterObjective,
    network: Backbone,
    images: Tensor,
    labels: Tensor,
    num_categories: int,
) -> None:
    """In evaluation mode nothing is learned, also under `no_grad` and inference mode."""
    attached, network, layers = _attached(objective, network, num_categories)
    attached.eval()
    network.eval()
    for mode in (torch.enable_grad, torch.no_grad, torch.inference_mode):
        with mode(), ActivationTap(network, layers) as tap:
            with leaves_no_trace(attached, images):
                logits = network(images)
            with leaves_no_trace(attached, labels), leaves_no_trace(network):
                outputs = StepOutputs(logits, tap.take(), {})
                terms = _terms(attached, network, outputs, labels)
        _check_scalars(terms, "Loss terms")


def _fit_classifier(
    objective: FilterObjective,
    network: Backbone,
    images: Tensor,
    labels: Tensor,
    num_categories: int,
) -> None:
    """Fit and validate the system that such objectives are for; its weights stay finite."""
    objective, network = copy.deepcopy((objective, network))
    channels, side = images.shape[1], images.shape[-1]
    names = tuple(f"category {number}" for number in range(num_categories))
    info = DataInfo(
        "contract", names, (), {}, (), side, channels, (0.0,) * channels, (1.0,) * channels, "", ""
    )
    sgd = functools.partial(torch.optim.SGD, lr=1e-3)
    system = Classifier(network, info, {"objective": objective}, loss="logistic", optimizer=sgd)
    fit_and_validate(system, _image_batch(images, labels))
    values = [value for value in system.state_dict().values() if value.is_floating_point()]
    finite = all(bool(value.isfinite().all()) for value in values)
    require(finite, "Weights and statistics must stay finite in training, but some do not.")


# -- metrics -------------------------------------------------------------------------------


def check_metric_merges(
    make_metric: Callable[[], Metric],
    updates: Sequence[tuple[Any, ...]],
    *,
    tolerance: float = 1e-6,
    run_on_two: Callable[..., list[Any]] | None = None,
) -> None:
    """Equal over 1 and 2 processes (whole numbers exactly), and after a reset.

    Args:
        make_metric: picklable: a function of a module, or a `functools.partial` of a class.
        updates: arguments of each call of `update`, at least 3; an odd number gives the two
            processes unequal shares.
        tolerance: relative and absolute, for floating-point results.
        run_on_two: runs a picklable function on two ranks and returns both results; None starts
            two processes.

    Raises:
        ContractError: naming the rule that is broken.
        ValueError: for fewer than 3 updates.
    """
    if len(updates) < 3:
        raise ValueError(f"`updates` must hold at least 3 entries, but got {len(updates)}.")
    whole = _metric_value(make_metric, list(updates), reset_first=False)
    after_reset = _metric_value(make_metric, list(updates), reset_first=True)
    _require_close(whole, after_reset, 0.0, "A metric must be as new after `reset`")
    for value in (run_on_two or run_on_two_processes)(_share_of_metric, make_metric, list(updates)):
        _require_close(whole, value, tolerance, "A metric must be equal over 1 and 2 processes")


def _metric_value(
    make_metric: Callable[[], Metric], updates: list[tuple[Any, ...]], *, reset_first: bool
) -> dict[str, Tensor]:
    metric = make_metric()
    if reset_first:
        metric.update(*updates[0])
        metric.compute()
        metric.reset()
    for arguments in updates:
        metric.update(*arguments)
    computed = metric.compute()
    return dict(computed) if isinstance(computed, Mapping) else {"value": computed}


def _share_of_metric(
    make_metric: Callable[[], Metric], updates: list[tuple[Any, ...]]
) -> dict[str, Tensor]:
    mine = updates[torch.distributed.get_rank() :: torch.distributed.get_world_size()]
    return _metric_value(make_metric, mine, reset_first=False)


def _require_close(
    expected: Mapping[str, Tensor], found: Mapping[str, Tensor], tolerance: float, rule: str
) -> None:
    require(expected.keys() == found.keys(), f"{rule}, but the names of its results differ.")
    for name, value in expected.items():
        exact = not value.is_floating_point()
        width = 0.0 if exact else tolerance
        close = value.shape == found[name].shape and torch.allclose(
            value.double(), found[name].double(), rtol=width, atol=width, equal_nan=True
        )
        require(close, f"{rule}, but {name!r} is {value} and {found[name]}.")
