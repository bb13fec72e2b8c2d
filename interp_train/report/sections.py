"""What stands on the page: blocks of text, table, plot or pictures, per data set."""

from collections.abc import Mapping, Sequence

from markupsafe import Markup
from matplotlib import colormaps
from matplotlib.colors import to_hex

from interp_train.evaluation.bootstrap import PairedDifference
from interp_train.evaluation.layer_dissection import LayerDissection
from interp_train.report import (
    confusion,
    dissections,
    filter_plots,
    panels,
    plots,
    tables,
    visualizations,
)
from interp_train.report.blocks import Block, Section, Writer
from interp_train.report.capsules import capsule_blocks
from interp_train.report.comparison import cell_of, paired_with_ordinary, verdict
from interp_train.report.latent_codes import code_blocks
from interp_train.report.measures import BY_NAME, MEASURES, number, parsed
from interp_train.report.parse_blocks import parse_blocks
from interp_train.report.records import RunData, StudyData
from interp_train.report.tables import headlines, last_layer, shown, signed_number

Differences = Mapping[str, Mapping[str, PairedDifference]]


def data_section(study: StudyData, data: str, writer: Writer) -> Section:
    """Everything about one data set; blocks without content are left out."""
    groups = [study.of(row, data) for row in study.rows]
    runs = [run for group in groups for run in group]
    firsts = [group[0] for group in groups if group]
    layer = last_layer(runs)
    differences = {
        row: found for row in study.rows if (found := paired_with_ordinary(study, data, row))
    }
    results, *statistics = _result_blocks(study, data, layer, differences, writer)
    blocks = [
        results,
        *_picture_blocks(data, layer, firsts, writer),
        *_dissection_blocks(data, firsts, writer),
        *statistics,
        *code_blocks(data, firsts, writer.folder),
        *parse_blocks(data, firsts, writer),
        *capsule_blocks(data, firsts),
        *_error_blocks(data, firsts, writer),
        *_filter_blocks(study, data, layer, firsts, writer),
        *_visualization_blocks(data, firsts, writer),
        *_other_blocks(study, data, layer, firsts, writer),
    ]
    return Section(
        anchor=f"data-{data}",
        title=shown(data),
        findings=findings(study, data, layer, differences),
        blocks=[block for block in blocks if block.body],
    )


def findings(study: StudyData, data: str, layer: str, differences: Differences) -> list[str]:
    """A sentence per row: what changed against the ordinary one, beside the constant position."""
    sentences = []
    for row, found in differences.items():
        parts = []
        for name in ("top1", "part_tracking_mean_r2", "location_instability"):
            if name not in found:
                continue
            pair, measure = found[name], BY_NAME[name]
            ends = ", ".join(signed_number(value, name) for value in (pair.low, pair.high))
            unit = " points" if measure.percent else ""
            parts.append(
                f"{measure.label} {number(pair.first, name)} → {number(pair.second, name)} "
                f"({signed_number(pair.difference, name)}{unit}, 95 % interval [{ends}]: "
                f"{verdict(pair, measure.higher)})"
            )
        sentences.append(f"{shown(row)} against {shown(study.ordinary or '')}: {'; '.join(parts)}.")
    runs = [run for row in study.rows for run in study.of(row, data)]
    constant = cell_of(runs, f"parts/{layer}/location_instability_constant")
    if constant.values:
        sentences.append(
            f"A filter that always fires at the image's centre would have location instability "
            f"{number(constant.mean)}."
        )
    return sentences


def _result_blocks(
    study: StudyData, data: str, layer: str, differences: Differences, writer: Writer
) -> list[Block]:
    paired = Markup()
    if differences:
        paired = writer.plot(plots.differences_plot(study, data, differences))
        paired += writer.table(tables.difference_table(data, study.ordinary or "", differences))
    return [
        Block(
            "Results",
            "Accuracy and every interpretability score of the last validation. Below the line: "
            "what the same scores give to filters that know nothing, or everything. A score is "
            "worth what it exceeds its baselines by.",
            _result_tables(study, data, writer),
        ),
        Block(
            "Scores beside their baselines",
            "One dot per seed, a bar at the mean. Hollow marks are baselines; an arrowhead is a "
            "baseline below −1.",
            writer.plot(plots.measures_plot(study, data, layer)),
        ),
        Block(
            "Paired differences",
            "Each row minus the ordinary one on the same images; lines are 95 % bootstrap "
            "intervals. Where a line crosses 0, the data do not decide.",
            paired,
        ),
        Block(
            "Over training",
            "Validation after each epoch: mean over seeds, shaded from the lowest to the highest "
            "seed. Dashed: baselines at the end of training, where they fit on the scale.",
            writer.plot(plots.curves_plot(study, data, layer)),
        ),
    ]


def _result_tables(study: StudyData, data: str, writer: Writer) -> Markup:
    runs = [run for row in study.rows for run in study.of(row, data)]
    found = headlines(runs)
    layers = [name for name in found if name] or [""] * bool(found)
    body = Markup().join(
        writer.table(tables.comparison_table(study, data, name)) for name in layers
    )
    every = writer.table(tables.all_quantities_table(study, data))
    folded = Markup("<details><summary>Every logged quantity</summary>{}</details>").format(every)
    return body + reasons_missing(runs) + folded


def reasons_missing(runs: Sequence[RunData]) -> Markup:
    """Why a measure was not taken, one line per reason."""
    reasons = [why for run in runs for found in run.missing.values() for why in found.values()]
    items = Markup().join(Markup("<li>{}</li>").format(why) for why in dict.fromkeys(reasons))
    return Markup('<ul class="missing">{}</ul>').format(items) if items else Markup()


def _picture_blocks(
    data: str, layer: str, firsts: Sequence[RunData], writer: Writer
) -> list[Block]:
    positions, legend = panels.position_panel(data, layer, firsts)
    drawn = Markup().join(writer.panel(panel) for panel in positions)
    lit = panels.filter_panels(data, layer, firsts)
    seed = _seed_of(firsts)
    return [
        Block(
            "The same images, the best filter of each network",
            "For a few parts, the filter that follows the part best in each network, among those "
            f"of the image's category{seed}. Bright is what the filter sees at its peak, the ring "
            "is the landmark. A filter that stands for the part keeps its light in one place "
            "relative to the ring, image after image.",
            Markup().join(writer.panel(panel) for panel in lit),
        ),
        Block(
            "Where filters fire",
            "Dots are peaks, rings are landmarks, a colour is a part. Drawn is the best filter of "
            f"each part that it follows with R² > .25{seed}.",
            legend_of(legend) + drawn if drawn else Markup(),
        ),
    ]


def _dissection_blocks(data: str, firsts: Sequence[RunData], writer: Writer) -> list[Block]:
    bars, curves, units = Markup(), Markup(), Markup()
    for run in firsts:
        head = Markup("<h4>{}</h4>").format(shown(run.row)) if len(firsts) > 1 else Markup()
        plot = dissections.detectors_plot(data, run)
        tabled = Markup().join(_dissection_tables(data, run, found, writer)
                               for found in run.dissections.values())  # fmt: skip
        bars += head + writer.plot(plot) + tabled if plot else Markup()
        curve = dissections.iou_plot(data, run)
        curves += head + writer.plot(curve) if curve else Markup()
        units += Markup().join(writer.panel(p) for p in dissections.unit_panels(data, run))
    return [
        Block(
            "What units detect",
            "Network dissection: units whose most active pixels overlap with a labelled concept. "
            "Bars are this network, hollow marks the same count for networks and labels in which "
            f"nothing was learned{_seed_of(firsts)}. Only what exceeds the marks is learned.",
            bars,
        ),
        Block(
            "What units detect, over training",
            "The same after each epoch, beside the nulls of that epoch; the network with random "
            f"weights is measured once{_seed_of(firsts)}.",
            curves,
        ),
        Block(
            "Units, their concepts and their images",
            "The best unit of each concept, then the next best. Patches of its top images from the "
            "highest activation down; in colour is where the unit exceeds its threshold.",
            units,
        ),
    ]


def _dissection_tables(data: str, run: RunData, found: LayerDissection, writer: Writer) -> Markup:
    place = f"{data}_{run.row}_{found.layer}"
    units = writer.table(dissections.unit_table(found, f"units_{place}"))
    counts = writer.table(dissections.detectors_table(found, f"detectors_{place}"))
    folded = Markup("<details><summary>Units of {}</summary>{}</details>")
    return counts + folded.format(found.layer, units)


def _error_blocks(data: str, firsts: Sequence[RunData], writer: Writer) -> list[Block]:
    matrices = Markup()
    for row, plot, table in confusion.confusions(data, firsts):
        matrices += Markup("<h4>{}</h4>").format(row) + writer.plot(plot)
        matrices += writer.table(table) if table else Markup()
    errors = Markup().join(map(writer.panel, confusion.error_panels(data, firsts)))
    return [
        Block(
            "What is taken for what",
            "Each row of a matrix is a category, each column an answer; colour is the share of "
            f"the category's images{_seed_of(firsts)}.",
            matrices,
        ),
        Block(
            "The worst errors",
            "Wrong answers of the highest probability, with the evidence for the answer and, on "
            f"the same scale, for the image's own category{_seed_of(firsts)}.",
            colour_scale() + errors if errors else Markup(),
        ),
    ]


def _seed_of(firsts: Sequence[RunData]) -> str:
    return f" (seed {firsts[0].seed})" if firsts else ""


def _filter_blocks(
    study: StudyData, data: str, layer: str, firsts: Sequence[RunData], writer: Writer
) -> list[Block]:
    seed = _seed_of(firsts)
    return [
        Block(
            "Best filter of each part",
            "How well the best single filter follows each part; lines join the seeds.",
            writer.plot(plots.best_parts_plot(study, data, layer)),
        ),
        Block(
            "Position against landmark",
            "Each image gives two dots, one per direction: where the part is in the object's box, "
            "and where the best filter fires. On a line of slope 1 the filter follows the part; a "
            f"flat band is a filter that stays where it is{seed}.",
            writer.plot(filter_plots.tracking_plot(study, data, layer, firsts)),
        ),
        Block(
            "Stable is not yet tracking",
            f"Every filter of each network{seed}. To the left of the dashed line a filter is more "
            "stable than a constant position; above the dashed line it follows a part.",
            writer.plot(filter_plots.instability_plot(study, data, layer, firsts)),
        ),
    ]


def _visualization_blocks(data: str, firsts: Sequence[RunData], writer: Writer) -> list[Block]:
    galleries = (panel for run in firsts for panel in visualizations.gallery_panels(data, run))
    return [
        Block(
            "What units encode",
            "The same units, pictured in several ways: what excites them in the images, and what "
            f"they would like to see{_seed_of(firsts)}.",
            Markup().join(map(writer.panel, galleries)),
        ),
        Block(
            "What a layer gives back of an image",
            "Images as they are drawn from the maps of a layer alone, the layer that knows most "
            f"first. What is blurred, the layer has forgotten{_seed_of(firsts)}.",
            writer.panel(visualizations.inversion_panel(data, firsts)),
        ),
    ]


def _other_blocks(
    study: StudyData, data: str, layer: str, firsts: Sequence[RunData], writer: Writer
) -> list[Block]:
    units = Markup().join(writer.panel(p) for p in panels.unit_panels(data, layer, firsts))
    methods = dict.fromkeys(
        name.removeprefix("heatmaps_")
        for run in firsts
        for name in run.panels
        if name.startswith("heatmaps_")
    )
    heat = Markup().join(
        writer.panel(panels.heatmap_panel(data, method, firsts)) for method in methods
    )
    categories = tables.category_table(study, data, layer)
    return [
        Block(
            "What excites the filters",
            "The images with the highest activation of a few filters. Bright is the field of the "
            "peak, the line encloses what exceeds half of it.",
            Markup('<div class="columns">{}</div>').format(units) if units else Markup(),
        ),
        Block(
            "What the decision rests on",
            "Heatmaps of the same pinned images, for the image's category, on one scale per "
            "network. Below each: what it is, what the network says, with which probability.",
            colour_scale() + heat if heat else Markup(),
        ),
        Block(
            "Filters by category",
            "To which category each filter belongs, and which parts it follows there.",
            writer.table(categories) if categories else Markup(),
        ),
        Block(
            "Cost",
            "Seconds of a run, and the share that measuring and picturing took of them.",
            writer.table(tables.cost_table(study, data)),
        ),
    ]


def legend_of(entries: Sequence[tuple[str, str]]) -> Markup:
    """Names of parts with their colours."""
    items = Markup().join(
        Markup('<li><i style="background:{}"></i>{}</li>').format(colour, name)
        for name, colour in entries
    )
    return Markup('<ul class="legend">{}</ul>').format(items)


def colour_scale() -> Markup:
    """The colours of heatmaps from 0 to the value at the left of a line."""
    stops = ", ".join(to_hex(colormaps["magma"](step / 12)) for step in range(13))
    return Markup(
        '<p class="scale"><span>0</span><i style="background:linear-gradient(90deg, {})"></i>'
        "<span>the value at the left of the line, which 99.5 % of the pixels stay below</span></p>"
    ).format(stops)


def measured(study: StudyData) -> list[dict[str, str]]:
    """What the measures of this study show and cannot show."""
    runs = [run for run in study.runs if run.result]
    names = {parsed(name).name for group in headlines(runs).values() for name in group}
    return [
        {"label": m.label, "shows": m.shows, "cannot": m.cannot}
        for m in MEASURES
        if m.name in names
    ]
