"""Live explorers in the static book: a Sphinx extension that exports what `chapters/explorers.toml` declares, and shows it.

Without JavaScript or WebAssembly the reader sees a picture that stands still. Where ONNX Runtime Web cannot be had, the site is
built without explorers, and says so.
"""

from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.transforms import SphinxTransform

from avb_core.data import DataMissing
from tools.explorers import Explorer, export, fetch_runtime, read_explorers
from tools.site_nodes import NumberFigures

FOLDER = "explorers"
STILL = " Where JavaScript or WebAssembly is off, the picture stands still."


def prepare(app: Sphinx) -> None:
    """Export the explorers of the chapters that are built: pictures for Sphinx to find, the rest beside the pages."""
    present = [each for each in read_explorers() if (Path(app.srcdir) / "chapters" / f"{each.chapter}.ipynb").exists()]
    if not present:
        return
    live = Path(app.outdir) / FOLDER
    try:
        fetch_runtime(live)
    except DataMissing as error:
        print(f"Without explorers, for ONNX Runtime Web is missing: {error}")
        return
    export(present, live)
    (Path(app.srcdir) / FOLDER).mkdir()
    for explorer in present:
        (live / f"{explorer.name}.png").rename(Path(app.srcdir) / FOLDER / f"{explorer.name}.png")


class ShowExplorers(SphinxTransform):
    """Each explorer becomes a numbered figure at the end of its section's own text."""

    # After it, or the still picture would be taken for one of the chapter's
    default_priority = NumberFigures.default_priority + 1

    def apply(self, **kwargs: Any) -> None:
        for explorer in read_explorers():
            exported = (Path(self.env.srcdir) / FOLDER / f"{explorer.name}.png").exists()
            if exported and self.env.docname == f"chapters/{explorer.chapter}":
                place(self.document, explorer)


def place(document: nodes.document, explorer: Explorer) -> None:
    """Put an explorer's figure into its section; raises ExtensionError where the chapter has none of that name."""
    sections = list(document.findall(nodes.section))
    section = next((each for each in sections if explorer.section in each["ids"]), None)
    if section is None:
        known = ", ".join(each["ids"][0] for each in sections)
        raise ExtensionError(
            f"explorers.toml: {explorer.name}: {explorer.chapter} has no section {explorer.section}, but {known}"
        )
    figure = nodes.figure("", ids=[f"explorer-{explorer.name}"], classes=["explorer"])
    figure += nodes.image("", uri=f"/{FOLDER}/{explorer.name}.png", alt=explorer.alt)
    figure += nodes.caption("", explorer.caption + STILL)
    end = section.first_child_matching_class(nodes.section)
    section.insert(len(section) if end is None else end, figure)


def load_script(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None) -> None:
    """Only a page with an explorer loads the script."""
    if doctree and any("explorer" in figure["classes"] for figure in doctree.findall(nodes.figure)):
        app.add_js_file("explorers.js", loading_method="defer")


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("builder-inited", prepare)
    app.add_transform(ShowExplorers)
    app.connect("html-page-context", load_script)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
