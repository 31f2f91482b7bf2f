#!/usr/bin/env bash
# Times tamis, llama.cpp and PyTorch in turns on one model and writes docs/benchmarks.md.
#
# usage: bench/peers/run.sh MODEL.gguf [OPTIONS]
#   --skip-build    use the programs that are there; say so when one is missing
#   --rounds N      rounds of one process an engine and row            [3]
#   -r N            repetitions within a process                       [3]
#   -p N,N          prompts to read                                    [512,4096]
#   -n N            tokens to generate                                 [128]
#   -d N,N          tokens in the cache before generating, 0 first     [0,4096]
#   -t N            threads                                            [2]
#   --windows N     windows of 2048 tokens for perplexity              [the whole text]
#   --output FILE   where the table goes                               [docs/benchmarks.md]
#
# Environment: TAMIS_PEERS         where everything is built and kept [target/peers]
#              TAMIS_PEERS_PYTHON  a python with requirements.txt     [a venv in TAMIS_PEERS]
#              TAMIS               the program                        [target/release/tamis]
#              TAMIS_DATA          texts to calibrate and to measure on; without it tamis' models are
#                                  rounded, and there is no ortho row and no perplexity
# Bars hold at the default sizes only. README.md beside this file says what is compared and why.
set -euo pipefail

usage() {
    sed -n '4,13p' "${BASH_SOURCE[0]}" | cut -c 3- >&2
    exit 2
}

fail() {
    printf 'peers: %s\n' "$1" >&2
    printf '  next: %s\n' "$2" >&2
    exit 1
}

say() { printf 'peers: %s\n' "$1" >&2; }

model='' build=yes output='' sizes=(--rounds 3 --repetitions 3 --threads 2)
while [ $# -gt 0 ]; do
    case "$1" in
    --skip-build) build=no && shift && continue ;;
    --rounds | --windows) name="$1" ;;
    -r) name=--repetitions ;;
    -p) name=--prompts ;;
    -n) name=--generate ;;
    -d) name=--depths ;;
    -t) name=--threads ;;
    --output) name=output ;;
    -*) usage ;;
    *)
        [ -z "$model" ] || usage
        model="$1" && shift && continue
        ;;
    esac
    [ $# -ge 2 ] || usage
    if [ "$name" = output ]; then output="$2"; else
        [[ "$2" =~ ^[0-9]+(,[0-9]+)*$ ]] || usage
        sizes+=("$name" "$2")
    fi
    shift 2
done
[ -n "$model" ] || usage
[ -f "$model" ] || fail "$model is not a file" "scripts/get-smollm2.sh fetches a small model"
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
here="$root/bench/peers"
output="${output:-$root/docs/benchmarks.md}"
mkdir -p "${TAMIS_PEERS:-$root/target/peers}"
peers="$(cd "${TAMIS_PEERS:-$root/target/peers}" && pwd)"
tamis="${TAMIS:-$root/target/release/tamis}"
python="${TAMIS_PEERS_PYTHON:-$peers/venv/bin/python}"
llama="$peers/llama.cpp/bin"

if [ "$build" = yes ]; then
    "$here/llamacpp.sh" "$peers/llama.cpp"
    [ -n "${TAMIS:-}" ] || (cd "$root" && cargo build --release --locked -p tamis-cli)
    if [ -z "${TAMIS_PEERS_PYTHON:-}" ] && ! [ -f "$peers/venv/complete" ]; then
        say "installing torch and transformers into $peers/venv"
        python3 -m venv "$peers/venv"
        "$python" -m pip install --quiet --disable-pip-version-check -r "$here/requirements.txt" ||
            fail "cannot install requirements.txt" "name a python that has it: TAMIS_PEERS_PYTHON"
        : >"$peers/venv/complete"
    fi
fi
[ -f "$llama/version" ] || fail "llama.cpp is not in $llama" "run without --skip-build"
[ -x "$tamis" ] || fail "$tamis is not a program" "run without --skip-build, or set TAMIS"
"$tamis" bench --help >/dev/null 2>&1 || fail "$tamis has no command bench" "build it anew, or set TAMIS"
versions="$("$python" - <<'PY'
import importlib.metadata, platform
names = ("torch", "transformers", "numpy")
print("Python", platform.python_version() + ",", ", ".join(f"{n} {importlib.metadata.version(n)}" for n in names))
PY
)" || fail "$python lacks torch or transformers" "run without --skip-build, or set TAMIS_PEERS_PYTHON"

# Everything made from the model, by its content: another file of the same name is another folder.
name="$(basename "$model" .gguf)"
models="$peers/models/$name-$(sha256sum "$model" | cut -c 1-12)"
mkdir -p "$models"

# llama.cpp's files, all by way of F16. Embedding and head are Q8_0 in each, as in tamis' models.
quantise() { # TYPE SOURCE OPTIONS..
    local type="$1" source="$2" target="$models/${1,,}.gguf"
    [ -f "$target" ] && return
    say "llama-quantize to $type"
    "$llama/llama-quantize" "${@:3}" "$source" "$target.part" "$type" >"$target.log" 2>&1 ||
        fail "llama-quantize to $type failed: $(tail -n 1 "$target.log")" "read $target.log"
    mv "$target.part" "$target"
    rm "$target.log"
}
quantise F16 "$model" --allow-requantize
for type in Q4_0 Q4_1 Q8_0; do
    quantise "$type" "$models/f16.gguf" --token-embedding-type q8_0 --output-tensor-type q8_0
done

# tamis' models, with an 8-bit embedding. Rounding has the speed of calibrated weights, not their
# quality, and no ortho stream.
compress() { # FOLDER RECIPE OPTIONS..
    [ -f "$models/$1/manifest.json" ] && return
    say "tamis compress to $2"
    "$tamis" compress "$model" -o "$models/$1" --recipe "$2" --embedding 8 --quiet "${@:3}" >/dev/null
}
calibration="${TAMIS_DATA:+$TAMIS_DATA/c4_sample/c4_sample.jsonl}"
text="${TAMIS_DATA:+$TAMIS_DATA/wikitext2/wiki.test.raw}"
for file in "$calibration" "$text"; do
    [ -z "$file" ] || [ -f "$file" ] || fail "$file is not there" "set TAMIS_DATA to the folder of texts, or unset it"
done
if [ -n "$calibration" ]; then
    models_of=calibrated
    recipes="int4, int3 and int4-ortho, 8-bit embedding, 16 windows of $(basename "$calibration")"
    options=(--calibration "$calibration" --samples 16)
    pairs=('int4 int4' 'int3 int3' 'int4-ortho int4-ortho')
else
    models_of=rounded
    recipes='rtn4 and rtn3 (no TAMIS_DATA: rounded, without ortho), 8-bit embedding'
    options=()
    pairs=('int4 rtn4' 'int3 rtn3')
fi
say "tamis: $recipes"
for pair in "${pairs[@]}"; do
    compress "$models_of/${pair% *}" "${pair#* }" ${options[@]+"${options[@]}"}
done

if ! [ -d "$models/hf" ]; then
    say 'the model in bf16 for PyTorch'
    "$python" "$here/gguf_to_hf.py" "$model" "$models/$models_of/int4/tokenizer.json" "$models/hf" >&2
fi
# One folder that holds what this run compares, for interleave.py.
set="$(mktemp -d "$peers/set.XXXXXX")"
trap 'rm -rf "$set"' EXIT
ln -s "$models"/q4_0.gguf "$models"/q4_1.gguf "$models"/q8_0.gguf "$models"/hf "$models/$models_of"/* "$set/"

commit="commit $(git -C "$root" rev-parse --short HEAD 2>/dev/null || printf unknown)"
[ -z "$(git -C "$root" status --porcelain --untracked-files=no 2>/dev/null)" ] || commit="$commit with changes"
[ -z "${TAMIS:-}" ] || commit='a program given by TAMIS, commit not known'
results="$peers/results.jsonl"
status=0
python3 "$here/interleave.py" --tamis "$tamis" --llama "$llama" --python "$python" --models "$set" \
    --text "$text" --results "$results" "${sizes[@]}" \
    --note "model=$(basename "$model")" --note "text=$(basename "${text:-none}")" --note "tamis' models=$recipes" \
    --note "tamis=$("$tamis" --version), $commit" --note "llama.cpp=$(head -n 1 "$llama/version")" \
    --note "its build=$(tail -n 1 "$llama/version")" --note "PyTorch=$versions"
python3 "$here/table.py" "$results" "$output" || status=$?
say "table in $output, every run in $results"
exit "$status"
