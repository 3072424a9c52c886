"""What the static book adds to the notebooks' text: numbered figures, a description for every picture, places to link to, and
links from citations to the bibliography.

A Sphinx extension. The notebooks' own outputs are left as they are stored.
"""

import re
from itertools import groupby
from textwrap import shorten
from typing import Any

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.transforms import SphinxTransform
from sphinx.util import logging
from sphinx.util.nodes import make_refnode
from sphinxcontrib.bibtex.domain import BibtexDomain

from tools.citations import citations
from tools.ledger import VERDICT

SLIDERS = re.compile(r"At (.*)\. Run this cell for live sliders\.\s*")  # as avb_core.widgets prints it


class NumberFigures(SphinxTransform):
    """In a chapter every picture that stands alone becomes a numbered figure, with a text for those who do not see it.

    Sentences in italics after a picture are its caption; otherwise the section gives the caption, and the paragraph after the
    picture describes it.
    """

    default_priority = 700  # when labels have been attached to what they stand before

    def apply(self, **kwargs: Any) -> None:
        if not self.env.docname.startswith("chapters/"):
            return
        pictures = [holder(image) for image in self.document.findall(nodes.image)]
        blocks = [in_section(picture) for picture in pictures]
        for number, (picture, block) in enumerate(zip(pictures, blocks, strict=True), start=1):
            following = paragraph_after(block)
            title = re.sub(r"^\d+\. ", "", block.parent[0].astext())
            described = following.astext() if following is not None else f"Plot in the section {title}"
            if following is not None and is_caption(following) and block not in blocks[number:]:
                emphasis = following.pop(0)
                described = emphasis.astext()
                caption = nodes.caption("", "", *emphasis.children)
                if not following.astext().strip():
                    following.parent.remove(following)
            else:
                caption = nodes.caption("", "", nodes.Text(title if title.endswith("?") else f"{title}."))
            caption += [nodes.Text(f" {where}") for where in slider_places(picture)]
            figure = nodes.figure("", ids=[f"figure-{number}"])
            picture.parent.replace(picture, figure)
            figure += [picture, caption]
            for image in picture.findall(nodes.image):
                image.setdefault("alt", shorten(described, 300, placeholder=" …"))


def holder(image: nodes.image) -> nodes.Element:
    """What stands for a picture among the text: the image, or the bundle of a cell's output that has it in several forms."""
    node: nodes.Element = image
    while node.parent is not None:
        if node.get("nb_element") == "mime_bundle":
            return node
        node = node.parent
    return image


def in_section(node: nodes.Element) -> nodes.Element:
    """The part of a section, such as a paragraph or a cell, that a node belongs to."""
    while not isinstance(node.parent, (nodes.section, nodes.document)):
        node = node.parent
    return node


def paragraph_after(block: nodes.Element) -> nodes.paragraph | None:
    """The paragraph after a block, with nothing but code cells without pictures between; None where there is none."""
    siblings = block.parent.children
    for sibling in siblings[siblings.index(block) + 1 :]:
        if isinstance(sibling, nodes.paragraph):
            return sibling
        is_code = isinstance(sibling, nodes.Element) and sibling.get("nb_element") == "cell_code"
        if not is_code or any(True for _ in sibling.findall(nodes.image)):
            break
    return None


def is_caption(paragraph: nodes.paragraph) -> bool:
    """Whether a paragraph begins with whole sentences in italics."""
    first = paragraph.children[0]
    return isinstance(first, nodes.emphasis) and first.astext().endswith((".", "?"))


def slider_places(picture: nodes.Element) -> list[str]:
    """Where the sliders of a still picture stand: taken from the line below it, which goes."""
    siblings = picture.parent.children
    for block in siblings[siblings.index(picture) + 1 :]:
        if found := SLIDERS.fullmatch(block.astext()):
            picture.parent.remove(block)
            return [f"Shown at {found[1]}; in the notebook this moves."]
    return []


class LabelVerdicts(SphinxTransform):
    """A printed verdict `✓ id  what` can be linked to, as {ref}`text <check-id>`."""

    default_priority = NumberFigures.default_priority

    def apply(self, **kwargs: Any) -> None:
        labelled = set()
        for block in self.document.findall(nodes.literal_block):
            for id in VERDICT.findall(block.astext()):
                label = f"check-{id}".lower()
                if label not in labelled:
                    labelled.add(label)
                    block["ids"].append(nodes.make_id(label))
                    self.env.domains.standard_domain.note_hyperlink_target(
                        label, self.env.docname, nodes.make_id(label)
                    )


class LinkCitations(SphinxTransform):
    """A citation such as `Neal (2001)` leads to its entry in the bibliography; one without an entry is warned of."""

    default_priority = NumberFigures.default_priority + 10
    apart = (nodes.title, nodes.reference, pending_xref, nodes.literal, nodes.literal_block, nodes.math, nodes.raw)

    def apply(self, **kwargs: Any) -> None:
        for element in list(self.document.findall(nodes.TextElement)):
            if not any(isinstance(each, self.apart) for each in [element, *ancestors(element)]):
                # A line's end is a text of its own, and a citation may run over it.
                runs = groupby(element.children, key=lambda child: isinstance(child, nodes.Text))
                element.children = []
                for is_text, run in runs:
                    element += self.linked("".join(map(str, run)), element) if is_text else list(run)

    def linked(self, text: str, where: nodes.Element) -> list[nodes.Node]:
        """A text in pieces, with references for its citations."""
        pieces: list[nodes.Node] = []
        end = 0
        for found in citations(text):
            cited = text[found.start : found.end]
            if found.key is None:
                logging.getLogger(__name__).warning("references.bib has no %r", cited, location=where)
                continue
            link = pending_xref("", nodes.inline("", cited), reftype="citation", reftarget=found.key, refwarn=True)
            link["refdoc"] = self.env.docname
            pieces += [nodes.Text(text[end : found.start]), link]
            end = found.end
        return [*pieces, nodes.Text(text[end:])]


def ancestors(node: nodes.Node) -> list[nodes.Element]:
    """Every element that holds a node, the nearest first."""
    found: list[nodes.Element] = []
    while node.parent is not None:
        node = node.parent
        found.append(node)
    return found


def lead_to_bibliography(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, text: nodes.TextElement
) -> nodes.reference | None:
    """The link that a citation stands for, once the bibliography is known; None for any other reference."""
    if node["reftype"] != "citation":
        return None
    bibliography = env.get_domain("cite")
    assert isinstance(bibliography, BibtexDomain)
    for entry in bibliography.citations:
        if entry.key == node["reftarget"]:
            page = entry.bibliography_key.docname
            return make_refnode(app.builder, node["refdoc"], page, entry.citation_id, text)
    return None


def setup(app: Sphinx) -> dict[str, bool]:
    for transform in (NumberFigures, LabelVerdicts, LinkCitations):
        app.add_transform(transform)
    app.connect("missing-reference", lead_to_bibliography)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
