"""The method table of README.md, generated from conf/ and the methods' module docstrings.

Rewrite it with ``make table``; its thumbnails are drawn by `tests.guards.method_thumbnails`.
"""

import ast
import re

from tests.guards.constructors import definitions, is_ours
from tests.guards.sources import REPOSITORY, modules

BEGIN, END = "<!-- methods: begin -->", "<!-- methods: end -->"
GROUPS = {
    "learning": "Learning systems",
    "filter_objective": "Filter objectives",
    "heatmap": "Heatmaps",
    "unit_visualizer": "Pictures of units",
    "diagnosis": "Diagnoses",
    "explainer": "Explainers",
    "callbacks": "Measures",
    "backbone": "Backbones",
    "data": "Data",
    "probe_set": "Concepts",
}
# Zhang & Zhu, FITEE 2018: the section of each shelf.
SECTIONS = {
    "visualization": 3, "diagnosis": 4, "disentangling": 5, "learning": 6, "evaluation": 7,
    "interaction": 8,
}  # fmt: skip
THUMBNAILS = "docs/methods"
PAPER = re.compile(r'"([^"]+)",? ((?:arXiv:[\d.]+, |[^"\d.;]|\d(?!\d{3}))*\d{4})')
SEE = re.compile(r"; see `([\w.]+)`")  # a callback names the module of its measure


def method_table(root):
    """Markdown: one row per option of every group of methods, in the order of `GROUPS`."""
    known = modules(root)
    rows = [
        "| Kind | Choose it with | What it is | Paper | Survey § | |", "|---|---|---|---|---|---|",
    ]  # fmt: skip
    files = {(file.group, file.path.stem): file for file in definitions(root)}
    for group, title in GROUPS.items():
        shown = {}  # what it is -> the options that are it
        for (file_group, name), file in files.items():
            if file_group == group and name != "none":
                target = target_of(file, files)
                if target is not None and (group != "callbacks" or measure_of(known, target)):
                    shown.setdefault(target, []).append(name)
        for target, names in shown.items():
            options = ", ".join(f"`{option(group, name, files)}`" for name in names)
            text, paper, section = described(known, target)
            cells = (title, options, text, paper, section, thumbnails(root, group, names))
            rows.append(" ".join(f"| {' | '.join(cells)} |".split()))
    return "\n".join(rows)


def option(group, name, files):
    """What chooses an option on the command line."""
    if group != "callbacks":
        return f"{group}={name}"
    default = files["callbacks", "default"].parents
    return "callbacks=default" if name in default else f"callbacks=[default,{name}]"


def measure_of(known, target):
    """The module of the measure that a callback takes, or None."""
    module = target.rpartition(".")[0]
    found = SEE.search(ast.get_docstring(known[module].tree) or "")
    return found.group(1) if found else None


def target_of(file, files):
    """The constructor that a YAML leads to; None for one that only gathers others."""
    target = (file.values or {}).get("_target_")
    if target is not None:
        return target
    if file.group == "callbacks":
        return None
    parents = [target_of(files[file.group, name], files) for name in file.parents]
    return parents[0] if parents else None


def described(known, target):
    """First sentence of the docstring of a constructor's module, its papers, the section."""
    module = target.rpartition(".")[0]
    if not is_ours(target) or module not in known:
        return f"`{target}`", "", ""
    module = measure_of(known, target) or module
    text = ast.get_docstring(known[module].tree) or ""
    paragraphs = [" ".join(part.split()) for part in text.split("\n\n")]
    first = paragraphs[0].rstrip(".").replace("|", "\\|")
    return first, papers(paragraphs), str(SECTIONS.get(module.split(".")[1], ""))


def papers(paragraphs):
    """Title and year of the papers that a docstring names as its reference, else of its first."""
    referring = [text for text in paragraphs if text.startswith("Reference:")]
    found = [PAPER.findall(text) for text in referring or paragraphs]
    chosen = [paper for some in found for paper in some]
    chosen = chosen if referring else chosen[:1]
    return "; ".join(f"{title}, {place.strip()}" for title, place in chosen).replace("|", "\\|")


def thumbnails(root, group, names):
    """The pictures of options, where there are any."""
    files = [f"{THUMBNAILS}/{group}_{name}.png" for name in names]
    return " ".join(
        f'<img src="{file}" alt="{name.replace("_", " ")}" width="112">'
        for file, name in zip(files, names, strict=True)
        if (root / file).is_file()
    )


def with_table(text, root):
    """`text` of the README with the table between its two marks."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"README.md must contain the lines {BEGIN!r} and {END!r}.")
    return f"{before}{begin}\n{method_table(root)}\n{end}{after}"


if __name__ == "__main__":
    readme = REPOSITORY / "README.md"
    readme.write_text(with_table(readme.read_text("utf-8"), REPOSITORY), "utf-8")
