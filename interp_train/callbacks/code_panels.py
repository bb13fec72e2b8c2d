"""What the latent codes of a generator mean: pictures in which one code is varied at a time."""

from collections.abc import Sequence
from typing import final

import torch
from lightning.pytorch import LightningModule, Trainer
from matplotlib.figure import Figure
from torch import Tensor

from interp_train.callbacks.figure_writer import FigureCallback
from interp_train.callbacks.layer_metrics import measures_now
from interp_train.callbacks.pinned_images import as_bytes, save_record
from interp_train.checks import check_range
from interp_train.latent_figures import grid_figure
from interp_train.learning.infogan.functional import Code, Latents
from interp_train.learning.infogan.module import InfoGan
from interp_train.stopwatch import stopwatch_of

_FOR_PICTURES = 6  # what the latents are drawn for; beside those of the system
_SHOWN = 10  # columns of a figure; the record has all steps


@final
class CodePanels(FigureCallback):
    """Draws what the generator makes of the same latents after each validation, on process 0.

    ``codes/samples`` shows latents drawn once; ``codes/varied_<code>`` varies one code along each
    row and leaves the rest of the row as it is, with another category of the first categorical code
    in each row. All images are kept in ``measures/panels/codes.npz``, for the report's animations.

    Args:
        num_samples: images of ``codes/samples``, in rows of ten.
        num_rows: rows where a code is varied.
        steps: values of a continuous code.
        reach: they go from minus this to this; the codes are drawn from (-1, 1), and the paper
            shows (-2, 2).
        most_categories: of a categorical code that are shown.
        every_n_epochs: draws in every n-th epoch of a fit, in its last, and in every `validate`.
    """

    def __init__(
        self,
        num_samples: int = 100,
        num_rows: int = 10,
        steps: int = 20,
        *,
        reach: float = 2.0,
        most_categories: int = 20,
        every_n_epochs: int = 1,
    ) -> None:
        check_range("num_samples", num_samples, 1)
        check_range("num_rows", num_rows, 1)
        check_range("steps", steps, 2)
        check_range("reach", reach, 0.0)
        check_range("most_categories", most_categories, 2)
        check_range("every_n_epochs", every_n_epochs, 1)
        self.num_samples, self.num_rows, self.steps = num_samples, num_rows, steps
        self.reach, self.most_categories = reach, most_categories
        self.every_n_epochs = every_n_epochs

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw all pictures.

        Raises:
            ValueError: if the system has no latent codes.
        """
        if not isinstance(pl_module, InfoGan):
            raise ValueError(
                f"`callbacks.code_panels` must watch a system with latent codes, such as "
                f"learning=infogan, but got {type(pl_module).__name__}. Leave the callback out."
            )
        if not (trainer.is_global_zero and measures_now(trainer, self.every_n_epochs)):
            return
        with stopwatch_of(trainer).measure("code_panels"):
            ids = torch.arange(self.num_samples, device=pl_module.device)
            samples = pl_module.pictures(pl_module.draw(ids, _FOR_PICTURES, epoch=0)).float().cpu()
            record = {"samples": as_bytes(samples), "epoch": trainer.current_epoch}
            self.submit(trainer, "codes/samples", lambda: samples_figure(samples))
            for place, code in enumerate(pl_module.prior.codes):
                values = self._values(code)
                images = self._varied(pl_module, place, values)
                record[f"varied_{code.name}"] = as_bytes(images)
                record[f"values_{code.name}"] = values.numpy()
                self._submit_varied(trainer, code, values, images)
            save_record(trainer, "codes", **record)

    def _values(self, code: Code) -> Tensor:
        if code.kind == "uniform":
            return torch.linspace(-self.reach, self.reach, self.steps)
        count = min(code.width, self.most_categories) if code.kind == "categorical" else 2
        return torch.arange(count).float()

    def _varied(self, system: InfoGan, place: int, values: Tensor) -> Tensor:
        """Images ``(rows, values, 3, H, W)`` on the CPU."""
        rows = torch.arange(self.num_rows, device=system.device)
        drawn = system.draw(rows, _FOR_PICTURES, epoch=0)
        fixed = drawn.values.clone()
        first = system.measures.place
        if first is not None:
            fixed[:, first] = (rows % system.prior.codes[first].width).to(fixed)
        number = len(values)
        table = fixed.repeat_interleave(number, 0)
        table[:, place] = values.to(table).repeat(self.num_rows)
        latents = Latents(drawn.noise.repeat_interleave(number, 0), table)
        images = system.pictures(latents).float().cpu()
        return images.view(self.num_rows, number, *images.shape[1:])

    def _submit_varied(self, trainer: Trainer, code: Code, values: Tensor, images: Tensor) -> None:
        def draw() -> Figure:
            return varied_figure(code, values, images)

        self.submit(trainer, f"codes/varied_{code.name}", draw)


def samples_figure(samples: Tensor) -> Figure:
    """Samples ``(N, 3, H, W)`` in rows of ten; a last incomplete row is left white."""
    columns = min(10, len(samples))
    missing = -len(samples) % columns
    whole = torch.cat([samples, samples.new_ones(missing, *samples.shape[1:])])
    rows = whole.view(-1, columns, *samples.shape[1:])
    return grid_figure(rows, (), (), title="samples")


def varied_figure(code: Code, values: Tensor, images: Tensor) -> Figure:
    """One code varied along the rows; of many steps some are shown.

    Args:
        code: which.
        values: its value in each column.
        images: ``(rows, values, 3, H, W)``.
    """
    chosen = torch.arange(len(values))
    if code.kind == "uniform" and len(values) > _SHOWN:
        chosen = torch.linspace(0, len(values) - 1, _SHOWN).round().long()
    labels = value_labels(code, values[chosen])
    return grid_figure(images[:, chosen], (), labels, title=f"code {code.name.replace('_', ', ')}")


def value_labels(code: Code, values: Tensor) -> Sequence[str]:
    """Values as they stand above columns."""
    if code.kind == "uniform":
        return [f"{value:.1f}".replace("-", "−") for value in values.tolist()]
    return [str(int(value)) for value in values.tolist()]
