"""What the measured quantities are called, mean, and cannot show."""

from typing import NamedTuple


class Measure(NamedTuple):
    """One measured quantity, in words.

    Attributes:
        name: its last component in the logs, e.g. ``"part_tracking_mean_r2"``.
        label: for tables and axes.
        higher: whether higher is better.
        percent: whether it is shown in percent.
        shows: what it shows, one sentence.
        cannot: what it cannot show, one sentence.
    """

    name: str
    label: str
    higher: bool
    percent: bool
    shows: str
    cannot: str


MEASURES = (
    Measure(
        "top1", "accuracy", True, True,
        "Share of validation images whose category the network names.",
        "It says nothing about what the decision rests on.",
    ),
    Measure(
        "part_tracking_mean_r2", "part tracking, mean\u00a0R²", True, False,
        "How much of a part's motion inside the object's box a filter follows; its part is "
        "chosen on one half of the images and scored on the other. 1 follows perfectly, 0 is a "
        "fixed place in the box, below 0 is worse than that; a filter that hardly ever fires "
        "counts as 0.",
        "A constant offset from the part costs nothing, so a filter may sit beside its part; it "
        "does not say whether the filter stays silent where the part is hidden.",
    ),
    Measure(
        "part_tracking_offset", "offset from the tracked part", False, False,
        "Mean distance between the average place of a filter and that of its part, as a share of "
        "the image's side; R² does not see it.",
        "Offsets in opposite directions cancel within a filter; read it beside R².",
    ),
    Measure(
        "part_tracking_inside", "peaks inside the object's box", True, True,
        "Share of a filter's peaks that lie in the box of the object.",
        "In crops that are cut at the box every place is inside.",
    ),
    Measure(
        "part_tracking_covered_groups", "number of part groups covered", True, False,
        "Number of part groups (head, wings, legs ...) that at least one filter follows.",
        "One filter is enough to cover a group.",
    ),
    Measure(
        "part_tracking_repeated_parts", "parts that three filters follow", True, False,
        "Number of parts that at least three filters follow.",
        "Neighbouring parts move together, so one filter may be counted for either.",
    ),
    Measure(
        "part_tracking_share", "tracking filters (R²\u00a0>\u00a0.25)", True, True,
        "Share of the filters that follow some part with R² > .25.",
        "Many filters may follow the same part; see coverage and distinct parts.",
    ),
    Measure(
        "part_tracking_coverage", "part groups covered", True, True,
        "Share of the part groups (head, wings, legs ...) that at least one filter follows.",
        "One filter is enough to cover a group.",
    ),
    Measure(
        "part_tracking_distinct_parts", "distinct parts followed", True, False,
        "Number of parts that at least one filter follows.",
        "Neighbouring parts move together, so one filter may be counted for either.",
    ),
    Measure(
        "part_tracking_swapped_mean_r2", "part tracking, halves swapped", True, False,
        "Mean R² where the images that chose a filter's part score it, and the others choose.",
        "Near the mean R² unless images decide; the two share their images.",
    ),
    Measure(
        "part_tracking_half_mean_r2", "part tracking, half of the filters", True, False,
        "Mean R² of a random half of the filters.",
        "Which half, follows from the run's seed.",
    ),
    Measure(
        "location_instability", "location instability", False, False,
        "Standard deviation of the distance between a filter's peak and a landmark, over the "
        "image's diagonal (Zhang, Wu and Zhu, CVPR 2018); low is stable.",
        "A filter that always fires at one fixed place scores better than most filters that follow "
        "a part, so read it only beside the constant position.",
    ),
    Measure(
        "location_instability_own_category", "location instability, own category", False, False,
        "Location instability in the category with the filter's highest mean peak.",
        "The same as location instability.",
    ),
    Measure(
        "part_interpretability", "part interpretability (IoU\u00a0>\u00a0.2)", True, True,
        "How often a filter's strongest region overlaps a part with IoU > .2 (Zhang, Wu and Zhu, "
        "CVPR 2018, after Bau et al., CVPR 2017).",
        "It depends on the radius of the disks that stand for the cells, and favours large parts.",
    ),
    Measure(
        "class_selectivity", "class selectivity", True, False,
        "How much more a filter answers to its favourite category than to the others (Morcos et "
        "al., ICLR 2018); 0 to all alike, 1 to one only.",
        "A selective filter may answer to the background of its category.",
    ),
    Measure(
        "filter_deletion_auc", "filter deletion, AUC", False, True,
        "Mean score of an image's category while the pixels that a filter responds to are blanked, "
        "a fifth of the image in the end; low where the network needs them (deletion: Petsiuk et "
        "al., BMVC 2018).",
        "Broad regions take more evidence away, and blanked pixels are foreign to any network, so "
        "read it beside other images' regions and the object's centre.",
    ),
    Measure(
        "mutual_information_score", "mutual information score, nats", True, False,
        "What a filter's mean activation tells of its best class against the rest, mean over "
        "filters (Liang et al., ECCV 2020).",
        "It grows with the number of classes and bins and falls with that of images, so read it "
        "beside shuffled labels; it does not ask where in the image the filter fires.",
    ),
    Measure(
        "cluster_accuracy_own", "accuracy, filters of the named class", True, True,
        "Accuracy with only the filters that belong to the class which the network names (Guo et "
        "al., AAAI 2024, ACC2).",
        "Only objectives that assign filters to classes have it.",
    ),
    Measure(
        "cluster_accuracy_others", "accuracy, without the true class's filters", False, True,
        "Accuracy without the filters that belong to the true class (Guo et al., AAAI 2024, "
        "ACC3); low where classes depend on filters of their own.",
        "It also falls where a class owns most of the filters.",
    ),
    Measure(
        "peak_consistency", "peak consistency", True, True,
        "How often a filter's peak moves along when the image is shifted, mirrored or scaled.",
        "It does not say that the filter finds the same part in different images.",
    ),
    Measure(
        "mean_best_iou", "dissection, mean IoU", True, False,
        "Mean over the units of the largest overlap with a labelled concept (Bau et al., CVPR "
        "2017).",
        "Units that detect what nobody labelled score low; large and rare concepts score by "
        "chance, so read it beside the exchanged masks.",
    ),
    Measure(
        "detectors", "detectors", True, False,
        "Number of units that overlap with a concept by more than a fixed IoU (.04 in the paper).",
        "The bound is a convention; many units may detect the same concept.",
    ),
    Measure(
        "unique_best", "concepts detected", True, False,
        "Number of different concepts that units are labelled with.",
        "It grows with the number of units and of labelled concepts.",
    ),
    Measure(
        "clustering", "clusters as categories", True, True,
        "Share of validation images whose cluster (the first categorical code) is the one that "
        "was matched with their category on training images, one to one.",
        "Clusters that follow something else than the categories count as errors.",
    ),
    Measure(
        "information", "information of discrete codes, nats", True, False,
        "Lower bound of the information that generated images hold about their discrete codes "
        "(Chen et al., NIPS 2016, eq. 5); its maximum is the codes' entropy.",
        "Codes may be hidden where nobody sees them, so look at the pictures.",
    ),
    Measure(
        "mig", "mutual information gap", True, False,
        "How much more the best code knows of a factor than the second best, as a share of the "
        "factor's entropy, mean over factors (Chen et al., NeurIPS 2018).",
        "A factor told by two codes together scores low, however clean they are.",
    ),
    Measure(
        "factor_vae", "FactorVAE score", True, False,
        "How often the code that varies least names the factor that was held fixed (Kim and Mnih, "
        "ICML 2018).",
        "Chance is one over the number of factors, and a code may tell several factors.",
    ),
    Measure(
        "dci_disentanglement", "DCI disentanglement", True, False,
        "How far each code matters for one factor only, by the gain of boosted trees (Eastwood and "
        "Williams, ICLR 2018).",
        "It does not say how well the factors are told; see informativeness.",
    ),
)  # fmt: skip

BY_NAME = {measure.name: measure for measure in MEASURES}

BASELINES = {
    "random": "random position",
    "constant": "constant position",
    "object_centre": "object centre",
    "mean_landmark": "mean landmark",
    "random_network": "random network",
    "shuffled_labels": "shuffled labels",
    "shuffled_images": "shuffled images",
    "rotated_basis": "rotated basis",
    "shuffled_masks": "shuffled masks",
    "oracle": "oracle per part",
    "perfect_filter": "perfect filter",
    "random_codes": "random codes",
    "principal_codes": "principal components",
}

BASELINE_MEANINGS = {
    "random": "a position drawn anew for each image",
    "constant": "always the centre of the image",
    "object_centre": "always the centre of the object's box",
    "mean_landmark": "always the part's mean place in the object's box",
    "random_network": "the same network with random weights",
    "shuffled_labels": "the same filters, labels dealt out at random",
    "shuffled_images": "the same trials against the peaks of other images",
    "rotated_basis": "the same activations in a randomly rotated basis",
    "shuffled_masks": "the same units against the labels of other images",
    "oracle": "the cell nearest the landmark, the best this grid allows",
    "perfect_filter": "a filter that tells one class from the rest without error",
    "random_codes": "as many codes, random numbers for each image",
    "principal_codes": "as many principal components of the images at 16 pixels",
}


class Quantity(NamedTuple):
    """A logged name, taken apart.

    Attributes:
        group: accuracy, parts, loss ...
        layer: dotted name; empty where the quantity belongs to no layer.
        name: of the quantity, without the baseline.
        baseline: key of `BASELINES`; empty for the network's own score.
    """

    group: str
    layer: str
    name: str
    baseline: str


def parsed(logged: str) -> Quantity:
    """Take a logged name such as ``parts/head.relu_2/location_instability_constant`` apart."""
    *place, name = logged.split("/")
    group, middle = "".join(place[:1]), place[1:]
    for baseline in sorted(BASELINES, key=len, reverse=True):
        if name.endswith(f"_{baseline}") and name[: -len(baseline) - 1]:
            return Quantity(group, "/".join(middle), name[: -len(baseline) - 1], baseline)
    return Quantity(group, "/".join(middle), name, "")


def label_of(name: str) -> str:
    """A quantity in words."""
    if name in BY_NAME:
        return BY_NAME[name].label
    if name.startswith("part_tracking_best_"):
        return f"best filter for {name.removeprefix('part_tracking_best_').replace('_', ' ')}, R²"
    return name.replace("_", " ")


def number(value: float | None, name: str = "", digits: int | None = None) -> str:
    """A value of the quantity `name` as text: percent with one digit, else three.

    None and NaN become a dash; a minus is typeset as one.
    """
    if value is None or value != value:
        return "–"
    measure = BY_NAME.get(name)
    if measure is not None and measure.percent:
        text = f"{100 * value:.{1 if digits is None else digits}f}"
    else:
        whole = name.endswith(("distinct_parts", "repeated_parts", "covered_groups")) or name in (
            "unique_best",
            "detectors",
        )
        text = f"{value:.{(1 if whole else 3) if digits is None else digits}f}"
    return text.replace("-", "−")


def unit_of(name: str) -> str:
    """``, %`` for what is shown in percent, else nothing."""
    measure = BY_NAME.get(name)
    return ", %" if measure is not None and measure.percent else ""


def direction_of(name: str) -> str:
    """An arrow towards the better end; empty where neither is."""
    measure = BY_NAME.get(name)
    return "" if measure is None else ("↑" if measure.higher else "↓")
