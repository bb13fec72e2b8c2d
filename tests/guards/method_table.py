"""The method table of README.md, generated from conf/ and the methods' module docstrings.

Rewrite it with ``make table``.
"""

import ast

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
    "backbone": "Backbones",
    "data": "Data",
}


def method_table(root):
    """Markdown: one row per option of every group of methods, in the order of `GROUPS`."""
    known = modules(root)
    rows = ["| Kind | Choose it with | What it is |", "|---|---|---|"]
    files = {(file.group, file.path.stem): file for file in definitions(root)}
    for group, title in GROUPS.items():
        shown = {}  # what it is -> the options that are it
        for (file_group, name), file in files.items():
            if file_group == group and name != "none":
                shown.setdefault(description(known, file, files), []).append(name)
        for text, names in shown.items():
            options = ", ".join(f"`{group}={name}`" for name in names)
            rows.append(f"| {title} | {options} | {text} |")
    return "\n".join(rows)


def description(known, file, files):
    """First sentence of the docstring of the module that a YAML leads to."""
    target = (file.values or {}).get("_target_")
    if target is None:
        parents = [description(known, files[file.group, name], files) for name in file.parents]
        return parents[0] if parents else ""
    module = target.rpartition(".")[0]
    if not is_ours(target) or module not in known:
        return f"`{target}`"
    text = " ".join((ast.get_docstring(known[module].tree) or "").split("\n\n")[0].split())
    return text.rstrip(".").replace("|", "\\|")


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
