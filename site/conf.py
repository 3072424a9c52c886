"""Sphinx configuration of the static book. `make site` (tools/site.py) lays out the pages that it reads."""

from importlib.metadata import distribution

from tools.book import CHAPTERS, read_book

book = read_book()
project = book["title"]
author = ", ".join(book["authors"])
copyright = f"{author}. Text {book['licence']['text']}, code {book['licence']['code']}"  # Sphinx's name for it
language = book["language"]

extensions = [
    "myst_nb",
    "sphinx.ext.mathjax",
    "sphinx_proof",
    "sphinx_exercise",
    "sphinxcontrib.bibtex",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinx_togglebutton",
    "sphinx_multitoc_numbering",
    "tools.site_nodes",
    "tools.site_explorers",
]
nb_execution_mode = "off"  # the stored outputs are what the tests verify
nb_merge_streams = True
nb_render_markdown_format = "myst"
nb_code_prompt_show = "Show the code"
nb_code_prompt_hide = "Hide the code"
nb_ipywidgets_js = {}  # sliders are stored as still pictures
myst_enable_extensions = ["amsmath", "colon_fence", "dollarmath"]
bibtex_bibfiles = [str(CHAPTERS / "references.bib")]
bibtex_reference_style = "author_year"
numfig = True
numfig_format = {"figure": "Figure %s"}
math_number_all = False
copybutton_selector = "div.cell_input div.highlight pre"

# One file with all of MathJax, so that equations show without a network, and from a folder on disk as well
mathjax_path = "mathjax/tex-svg-full.js"
mathjax3_config = {
    "svg": {"scale": 0.9},
    "options": {"enableMenu": False},  # its entries would load more files
}

html_theme = "sphinx_book_theme"
html_title = book["title"]
html_theme_options = {
    "show_navbar_depth": 1,
    "show_toc_level": 2,
    "use_download_button": False,
    "use_fullscreen_button": False,
    "footer_content_items": ["copyright"],
    "toc_title": "On this page",
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}
html_static_path = ["_static", str(distribution("sphinx-mathjax-offline").locate_file("sphinx-mathjax-offline/static"))]
html_css_files = ["book.css"]
html_favicon = "_static/favicon.svg"
html_context = {"default_mode": "auto"}
html_copy_source = False
html_use_index = False
html_domain_indices = False
# No page is made of what lies among the figures; and of MathJax, only the file that the pages load is copied.
exclude_patterns = ["figures", "mathjax/*/**", "mathjax/[!t]*", "mathjax/tex-[!s]*", "mathjax/tex-svg.js"]
