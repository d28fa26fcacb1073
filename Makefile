# `make demo` and `make test` need nothing but Python 3.10 or newer (with its headers) and a C compiler: each makes the
# environment it runs in. Another interpreter: `make PYTHON=python3.12 test`; another compiler: `make CC=clang test`.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
INSTALLED := $(VENV)/.installed
PLAIN := build/plain

# What a compiled module is made of: a change here installs again, a change to Python code does not have to, because the
# install is editable. What only a plain install shows (a package left out, types) `make types` and .ci/run look at.
COMPILED := $(foreach folder,kernels engine benchmarks,$(wildcard $(addprefix $(folder)/*.,pyx pxi pxd h)))

# make has a CC of its own, "cc"; Python knows the compiler it was built with, and only the user's word goes before it.
ifeq ($(origin CC),default)
unexport CC
else
export CC
endif

# The first thing that a fresh machine lacks, named together with what brings it. (Any Python must be able to read this.)
define CHECK
import sys  # up to the version, readable by any Python
if sys.version_info < (3, 10):
    sys.exit("error: gatestep needs Python 3.10 or newer, and %s is %s; name another one: make PYTHON=python3.12"
             % (sys.executable, sys.version.split()[0]))
import importlib.util, os, shlex, shutil, sysconfig
compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")[0]
for held, lack, package in (
    (importlib.util.find_spec("ensurepip"), "this Python cannot make virtual environments", "python3-venv"),
    (os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")), "Python.h is missing", "python3-dev"),
    (shutil.which(compiler), "there is no C compiler called " + compiler, "build-essential"),
):
    if not held:
        sys.exit("error: %s; on Debian and Ubuntu: apt install %s" % (lack, package))
endef
export CHECK

.PHONY: help install demo test bench importers precision lint types build clean
.DELETE_ON_ERROR:

help:
	@echo "make demo     denoise a recording frame by frame, and say how fast (sets everything up itself)"
	@echo "make test     the tests (sets everything up itself)"
	@echo "make bench    measure, and refresh the figures in README.md and docs/figures.md"
	@echo "make precision  measure the precision tiers, and write the table in docs/precision.md"
	@echo "make importers  hold PyTorch files to PyTorch, and write docs/importers.md (takes torch)"
	@echo "make lint     ruff"
	@echo "make types    mypy --strict, on the package as it installs"
	@echo "make build    sdist and wheel, in dist/"
	@echo "make install  only the environment: $(VENV), with the package in it, editable"
	@echo "make clean    remove everything that these made"

install: $(INSTALLED)

$(INSTALLED): pyproject.toml setup.py $(COMPILED)
	@$(PYTHON) -c "$$CHECK"
	@echo "setting up $(VENV); the first time takes a few minutes" >&2
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) install --quiet --editable '.[dev]'
	@touch $@

demo: $(INSTALLED)
	@$(BIN)/python examples/denoise/demo.py

test: $(INSTALLED)
	@$(BIN)/pytest $(ARGS)

bench: $(INSTALLED)
	@$(BIN)/gatestep bench --readme README.md --plot docs/latency.svg --markdown docs/figures.md $(ARGS)

precision: $(INSTALLED)
	@$(BIN)/python docs/make_precision.py

importers: $(INSTALLED)
	@$(PIP) install --quiet torch onnxscript safetensors
	@$(BIN)/python docs/make_importers.py

lint: $(INSTALLED)
	@$(BIN)/ruff check .

# mypy cannot look through an editable install, so it reads the files as a plain one would lay them out.
types: $(INSTALLED)
	@rm -rf $(PLAIN)
	@$(BIN)/python -c "import setuptools; setuptools.setup()" --quiet build_py --build-lib $(PLAIN)
	@MYPYPATH=$(PLAIN) $(BIN)/mypy -p gatestep

build: $(INSTALLED)
	@rm -rf dist
	@$(BIN)/python -m build --outdir dist . >&2

clean:
	rm -rf $(VENV) build dist examples/denoise/out *.egg-info src/*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
	find kernels engine benchmarks -name '*.so' -delete
	rm -f $(patsubst %.pyx,%.c,$(filter %.pyx,$(COMPILED)))
