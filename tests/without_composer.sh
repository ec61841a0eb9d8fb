#!/usr/bin/env bash
# The tests of all rooms that know no Composer, at both ends of what pyproject.toml allows: the newest of everything
# with Python 3.13, the oldest with Python 3.10. Not part of CI: it needs uv, both Pythons and 6 GB for each in turn.
#
#   tests/without_composer.sh            both
#   tests/without_composer.sh oldest     one of them
set -euo pipefail
cd "$(dirname "$0")/.."
unset PYTHONPATH # the wheel is what is tested
environment=$(mktemp -d)
trap 'rm -rf "$environment"' EXIT
echo "mosaicml; python_version < '3'" >"$environment/nothing_of_composer"

run() { # python, options of uv's resolver
  echo "== Python $1 $2"
  uv venv --quiet --clear --python "$1" "$environment/venv"
  source "$environment/venv/bin/activate"
  uv pip install --quiet --overrides "$environment/nothing_of_composer" "$2" '.[test]'
  uv pip list | grep -E '^(torch|torchvision|timm|kornia|numpy|pillow|safetensors|scikit-learn|scipy|lightly|pytest) '
  pytest -n auto -q
  deactivate
}

[[ ${1:-newest} != newest ]] || run 3.13 --resolution=highest
[[ ${1:-oldest} != oldest ]] || run 3.10 --resolution=lowest-direct
