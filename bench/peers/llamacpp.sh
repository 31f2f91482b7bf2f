#!/usr/bin/env bash
# Builds llama-bench, llama-perplexity and llama-quantize from the llama.cpp sources that the
# Python package llama-cpp-python carries, for the CPU it runs on (about 4 minutes on 2 cores).
#
# usage: bench/peers/llamacpp.sh FOLDER
#   The programs go to FOLDER/bin, the sources and the build to FOLDER as well.
#
# Needs python3 with pip and venv, tar, and a C++ compiler. cmake and ninja come from pip's index
# into FOLDER/tools. Does nothing when FOLDER/bin/version says that the same build is there.
set -euo pipefail

version=0.3.36
sha256=832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e
sdist="llama_cpp_python-$version.tar.gz"
targets=(llama-bench llama-perplexity llama-quantize)
options=(-DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON -DGGML_OPENMP=ON -DBUILD_SHARED_LIBS=OFF
    -DLLAMA_BUILD_COMMON=ON -DLLAMA_BUILD_TOOLS=ON -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF
    -DLLAMA_BUILD_SERVER=OFF -DLLAMA_BUILD_APP=OFF -DLLAMA_BUILD_UI=OFF -DLLAMA_OPENSSL=OFF)

fail() {
    printf 'llamacpp: %s\n' "$1" >&2
    printf '  next: %s\n' "$2" >&2
    exit 1
}

if [ $# -ne 1 ]; then
    printf 'usage: bench/peers/llamacpp.sh FOLDER\n' >&2
    exit 2
fi
mkdir -p "$1" || fail "cannot create $1" "name a folder you can write to"
folder="$(cd "$1" && pwd)"
for need in python3 c++ tar; do
    command -v "$need" >/dev/null || fail "$need not found" "install it"
done
cpu="$(sed -n 's/^model name[[:space:]]*: //p;T;q' /proc/cpuinfo)"
stamp="llama-cpp-python $version, $(c++ --version | sed q), ${cpu:-$(uname -m)}"
if [ -f "$folder/bin/version" ] && [ "$(head -n 1 "$folder/bin/version")" = "$stamp" ]; then
    printf 'llamacpp: already there: %s\n' "$folder/bin"
    exit 0
fi

# From the index that pip is configured with. The digest is compared before anything of the package runs.
printf 'llamacpp: fetching %s\n' "$sdist"
printf 'llama-cpp-python==%s --hash=sha256:%s\n' "$version" "$sha256" >"$folder/source.txt"
python3 -m pip download --quiet --disable-pip-version-check --no-deps --no-binary=llama-cpp-python --require-hashes \
    --requirement "$folder/source.txt" --dest "$folder" ||
    fail "cannot fetch $sdist" "check the network, the index of pip (pip config list) and the free disk space"

rm -rf "${folder:?}/source" "${folder:?}/build" "${folder:?}/bin"
mkdir "$folder/source"
tar -xzf "$folder/$sdist" -C "$folder/source" --strip-components=3 "llama_cpp_python-$version/vendor/llama.cpp"

# GCC 12 tells the optimiser that _tile_loadconfig reads 8 bytes of the 64, so stores to the rest
# may be dropped and the first tile instruction dies with SIGILL. The empty asm says that all of
# them are read. It changes nothing with other compilers or without AMX.
amx="$folder/source/ggml/src/ggml-cpu/amx/mmq.cpp"
cure='    asm volatile("" :: "r"(\&tc) : "memory");'
sed -i "s|^    _tile_loadconfig(&tc);\$|$cure\n&|" "$amx"
[ "$(grep -c -A 1 '^    asm volatile("" :: "r"(&tc) : "memory");$' "$amx")" = 1 ] &&
    [ "$(grep -c '_tile_loadconfig(' "$amx")" = 1 ] ||
    fail "the place of the AMX cure is not in $amx as expected" "look at the new source; without the cure AMX may crash"

if ! command -v cmake >/dev/null || ! command -v ninja >/dev/null; then
    python3 -m venv "$folder/tools"
    "$folder/tools/bin/pip" install --quiet --disable-pip-version-check cmake==4.4.4 ninja==1.13.2 ||
        fail "cannot install cmake and ninja" "install them (Debian: apt-get install cmake ninja-build)"
    PATH="$folder/tools/bin:$PATH"
fi
printf 'llamacpp: building, log in %s\n' "$folder/build.log"
if ! { cmake -S "$folder/source" -B "$folder/build" -G Ninja "${options[@]}" &&
    cmake --build "$folder/build" --parallel "${CMAKE_BUILD_PARALLEL_LEVEL:-$(nproc)}" --target "${targets[@]}"; } \
    >"$folder/build.log" 2>&1; then
    tail -n 20 "$folder/build.log" >&2
    fail "the build failed" "read $folder/build.log"
fi

mkdir "$folder/bin"
for target in "${targets[@]}"; do
    cp "$folder/build/bin/$target" "$folder/bin/"
done
ggml="$(sed -n 's/^-- ggml version: *//p' "$folder/build.log")"
# The last thing written: its presence means complete.
printf '%s\nggml %s; cmake %s\n' "$stamp" "$ggml" "${options[*]}" >"$folder/bin/version"
printf 'llamacpp: %s\n' "$folder/bin"
