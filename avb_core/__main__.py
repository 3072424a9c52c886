"""`python -m avb_core`: train and measure the book's models, and fetch its data."""

from avb_core.cli import app

app(prog_name="python -m avb_core")
