#!/bin/sh
# install.sh PYTHON VENV: make the virtual environment VENV and install the pinned packages and avb_core into it.
set -eu
python=$1
venv=$2

fail() {
  printf '\nNot set up: %s\n' "$1" >&2
  exit 1
}

# A folder without a working pip is left over from an installation that broke off.
if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
  command -v "$python" >/dev/null || fail "there is no '$python' here. Install Python 3.11 to 3.13, or name one: make PYTHON=..."
  version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])') || fail "'$python' does not run."
  case $version in
    3.11 | 3.12 | 3.13) ;;
    *) fail "the book needs Python 3.11 to 3.13, and '$python' is $version. Name another one: make PYTHON=python3.12 ..." ;;
  esac
  mkdir -p "$venv" 2>/dev/null && [ -w "$venv" ] ||
    fail "the folder $(pwd) cannot be written. Copy the book to a folder of your own, and run make there."
  "$python" -m venv --clear "$venv" ||
    fail "Python could not make a virtual environment. On Debian and Ubuntu: apt install python$version-venv"
fi

echo "Installing the pinned packages into $venv. The first time takes some minutes and needs the network."
rm -f "$venv/failed"
{
  "$venv/bin/python" -m pip install --disable-pip-version-check --progress-bar off --requirement requirements.lock ||
    touch "$venv/failed"
} | awk '
  /^(Collecting|Requirement already)/ { sub(/^Requirement already satisfied: /, ""); sub(/^Collecting /, ""); name = $1 }
  /^ +Downloading/ { name = $2 " " $3 " " $4 }
  name { sub(/==.*/, "", name); printf "\r%-72.72s", "  " (/Downloading/ ? count : ++count) ": " name; name = ""; fflush() }
  /^Installing collected/ { printf "\r%-72s\n", "  All are here; unpacking them takes a minute or two."; fflush() }
  END { printf "\r%-72s\r", "" }'
[ ! -e "$venv/failed" ] ||
  fail "pip could not install requirements.lock, its reason stands above. Is there a network? Then run make again."
"$venv/bin/python" -m pip install --disable-pip-version-check --quiet --no-deps --no-build-isolation --editable . ||
  fail "pip could not install avb_core itself, its reason stands above."
