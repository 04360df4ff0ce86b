#!/usr/bin/env bash
# Runs the unit tests and an embedded copy with the oldest or the newest dependencies that pyproject.toml admits.
#
#   scripts/floors.sh lowest-direct [PYTHON]    the floors of what pyproject.toml names
#   scripts/floors.sh highest [PYTHON]          the newest within the caps, whatever requirements.lock holds
#
# PYTHON is a version as 3.13, or a path; that of .venv by default.
set -euo pipefail
cd "$(dirname "$0")/.."

resolution="${1:?lowest-direct or highest}" interpreter="${2:-.venv/bin/python}"
venv=".tools/floors-$resolution" wanted=".tools/floors-$resolution.txt"
[ ! -s /etc/ssl/certs/ca-certificates.crt ] || export UV_SYSTEM_CERTS="${UV_SYSTEM_CERTS:-1}"
export UV_CACHE_DIR="${UV_CACHE_DIR:-$PWD/.tools/cache}"

.tools/bin/uv venv --quiet --clear --python "$interpreter" "$venv"
.tools/bin/uv pip compile --quiet --resolution "$resolution" --upgrade --extra all --python "$venv" \
    pyproject.toml -o "$wanted" >/dev/null
# The tests' own tools first: what they would rather have does not move the product's versions.
.tools/bin/uv pip install --quiet --python "$venv" --group dev
.tools/bin/uv pip install --quiet --python "$venv" --requirements "$wanted"
.tools/bin/uv pip install --quiet --python "$venv" --no-deps --editable .
printf 'floors: %s on %s\n' "$resolution" "$("$venv/bin/python" --version)" >&2
"$venv/bin/python" -m pytest tests/unit tests/contract/test_private_interfaces.py tests/integration/cli/test_commands.py \
    -n 2 --dist worksteal --timeout 300
