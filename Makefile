# Two commands for everybody: `make read` and `make test`. Each first builds .venv from requirements.lock, once.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
# Goes to Jupyter as it is, such as READ_FLAGS="--no-browser --port 9000"
READ_FLAGS ?=

# All that Jupyter, IPython and Matplotlib write goes into .venv: the reader's own settings are neither used nor changed,
# and a home folder that cannot be written does not matter.
export JUPYTER_CONFIG_DIR := $(CURDIR)/$(VENV)/home/config
export JUPYTER_DATA_DIR := $(CURDIR)/$(VENV)/home/data
export JUPYTER_RUNTIME_DIR := $(CURDIR)/$(VENV)/home/runtime
export IPYTHONDIR := $(CURDIR)/$(VENV)/home/ipython
export MPLCONFIGDIR := $(CURDIR)/$(VENV)/home/matplotlib
# The book's own Jupyter settings: where it opens, and which viewer a double click takes
export JUPYTER_CONFIG_PATH := $(CURDIR)/tools/jupyter

.DEFAULT_GOAL := help
.PHONY: help read test chapters site pdf claims assignments grade lint

help:  ## list these commands
	@sed -n 's/^\([a-z0-9]*\):.*##/make \1\t/p' $(MAKEFILE_LIST) | expand -t 20

read: $(VENV)/installed  ## open the book in JupyterLab
	@mkdir -p "$(JUPYTER_CONFIG_DIR)/custom" && cp tools/jupyter/custom.css "$(JUPYTER_CONFIG_DIR)/custom/"
	$(RUN) -m jupyterlab $(if $(filter 0,$(shell id -u)),--allow-root) $(READ_FLAGS)

test: $(VENV)/installed  ## run the unit tests, and every chapter against its stored outputs
	$(RUN) -m pytest --nbval -n 2 --dist=loadfile

chapters: $(VENV)/installed  ## execute the chapters that changed and write their notebooks
	$(RUN) -m tools.build_chapters

site: $(VENV)/installed  ## build the static book from the stored outputs, in build/site
	$(RUN) -m tools.site

pdf: $(VENV)/installed  ## print the book, in build/book.pdf; needs Chromium
	$(RUN) -m tools.paper

assignments: $(VENV)/installed  ## build the assignments for students, teachers and nbgrader, in build/assignments
	$(RUN) -m tools.assignments

grade: $(VENV)/installed  ## grade a folder: make grade SUBMISSIONS=folder
	$(RUN) -m tools.grade $(if $(SUBMISSIONS),"$(SUBMISSIONS)",$(error say which folder: make grade SUBMISSIONS=folder))

claims: $(VENV)/installed  ## judge the published numbers by the stored runs, anew
	$(RUN) -m tools.claims

lint: $(VENV)/installed  ## check style and types
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

$(VENV)/installed: requirements.lock pyproject.toml
	@sh tools/install.sh $(PYTHON) $(VENV)
	@touch $@
