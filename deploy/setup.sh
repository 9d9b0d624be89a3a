#!/usr/bin/env bash
# Makes .venv with online-draft, its dependencies and its development tools. `make setup` runs it.
#
#   TORCH=auto|cpu|cuda         which build of torch; auto takes CUDA only if nvidia-smi answers
#   PYTHON=/path/to/python3.11  which interpreter; else the first 3.12 or 3.11 on the PATH
#
# Needs no root and nothing but Python and its package index. Run again it does nothing unless pyproject.toml,
# constraints.txt, this script, the place of the repository or TORCH changed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

TORCH="${TORCH:-auto}"
PYTHON="${PYTHON:-}"
VENV=".venv"
STAMP="$VENV/setup-stamp"
TORCH_PIN="$(sed -n 's/^torch==//p' constraints.txt)"
CPU_INDEX="https://download.pytorch.org/whl/cpu"
REST_MB=230        # wheels other than torch, measured with an empty cache
CPU_TORCH_MB=190   # torch, CPU build for x86-64
CUDA_TORCH_MB=2700 # torch, CUDA build with the libraries that it pulls in

say() { printf 'setup: %s\n' "$*"; }
fail() {
    printf 'setup: %s\n' "$*" >&2
    exit 1
}

case "$TORCH" in
    auto | cpu | cuda) ;;
    *) fail "TORCH=$TORCH is unknown: use TORCH=auto, TORCH=cpu or TORCH=cuda" ;;
esac

version_of() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null; }
in_range() { [ "$1" = 3.11 ] || [ "$1" = 3.12 ]; }
venv_version() { [ -x "$VENV/bin/python" ] && version_of "$VENV/bin/python"; }

# ---- nothing to do? ---------------------------------------------------------------------------------------------

key="$({ pwd; cat pyproject.toml constraints.txt deploy/setup.sh; } | sha256sum | cut -c1-32)"
if [ -f "$STAMP" ] && current="$(venv_version)"; then
    read -r had_key had_torch <"$STAMP" || true
    if [ "$had_key" = "$key" ] && { [ "$TORCH" = auto ] || [ "$TORCH" = "$had_torch" ]; } &&
        { [ -z "$PYTHON" ] || [ "$(version_of "$PYTHON")" = "$current" ]; }; then
        exit 0
    fi
fi

# ---- Python -----------------------------------------------------------------------------------------------------

find_python() {
    local candidate version
    if [ -n "$PYTHON" ]; then
        version="$(version_of "$PYTHON")" ||
            fail "PYTHON=$PYTHON does not run: give the path of a Python 3.11 or 3.12"
        in_range "$version" || fail "PYTHON=$PYTHON is Python $version: give the path of a Python 3.11 or 3.12"
        python="$PYTHON"
        return
    fi
    for candidate in python3.12 python3.11 python3; do
        if version="$(version_of "$candidate")" && in_range "$version"; then
            python="$candidate"
            return
        fi
    done
    fail "no Python 3.11 or 3.12 found (python3 is ${version:-missing}):" \
        "run \`apt install python3.11 python3.11-venv\`, or name one with \`make setup PYTHON=/path/to/python3.11\`"
}

make_venv=1
if current="$(venv_version)" && in_range "$current" &&
    { [ -z "$PYTHON" ] || [ "$(version_of "$PYTHON")" = "$current" ]; } &&
    "$VENV/bin/python" -m pip --version >/dev/null 2>&1; then
    make_venv=0
    python="$VENV/bin/python"
else
    find_python
    "$python" -c 'import ensurepip, venv' 2>/dev/null ||
        fail "$python has no venv and ensurepip: run \`apt install python3-venv\` (Debian, Ubuntu), or set PYTHON"
fi

# ---- which torch, and is there room -----------------------------------------------------------------------------

want="$TORCH"
if [ "$want" = auto ]; then
    want=cpu
    if command -v nvidia-smi >/dev/null && nvidia-smi -L >/dev/null 2>&1; then want=cuda; fi
fi

free_mb() { df -Pk "$1" | awk 'NR == 2 { print int($4 / 1024) }'; }
need_room() { # MB for a finished .venv and its making, what to do; what .venv holds already counts as room
    local free used=0
    free="$(free_mb "$PWD")"
    if [ -d "$VENV" ]; then used="$(du -sm "$VENV" | cut -f1)"; fi
    [ "$((free + used))" -ge "$1" ] ||
        fail "too little disk: $PWD has $free MB free and $(($1 - used)) MB are needed: free some, $2"
}
room_mb=3000
if [ "$want" = cuda ]; then room_mb=9000; fi
need_room "$room_mb" "or clone to a larger disk"

if [ "$make_venv" = 1 ]; then
    say "making $VENV with Python $(version_of "$python")"
    "$python" -m venv --clear "$VENV" ||
        fail "could not make $VENV: run \`apt install python3-venv\` (Debian, Ubuntu), or set PYTHON"
fi
pip=("$VENV/bin/python" -m pip --disable-pip-version-check)

# Prints "VERSION MB cpu|cuda" of the torch that pip would install with these arguments; a file on this machine is 0 MB.
resolve_torch() {
    local report
    report="$("${pip[@]}" --quiet install --dry-run --ignore-installed --report - -c constraints.txt "$@" 2>/dev/null)" &&
        [ -n "$report" ] || return 1
    "$VENV/bin/python" -c '
import json, sys
from urllib.parse import urlsplit

installs = json.load(sys.stdin)["install"]
names = [item["metadata"]["name"].lower() for item in installs]
torch = installs[names.index("torch")]
url = urlsplit(torch["download_info"]["url"])
build = "cuda" if any(name.startswith("nvidia-") for name in names) else "cpu"
size = sys.argv[1] if build == "cuda" else sys.argv[2]
if url.scheme == "file":
    size = 0
print(torch["metadata"]["version"], size, build)
' "$CUDA_TORCH_MB" "$CPU_TORCH_MB" <<<"$report"
}

say "looking up torch $TORCH_PIN ($want)"
index=()
if [ "$want" = cuda ]; then
    torch_version="$TORCH_PIN" # exactly: a local CPU build would carry a build tag
    torch_mb="$CUDA_TORCH_MB"
else
    read -r torch_version torch_mb build < <(resolve_torch "torch==$TORCH_PIN") ||
        fail "pip can't find torch $TORCH_PIN: is the package index reachable? (\`pip index versions torch\` asks it)"
    if [ "$build" = cuda ]; then
        cpu=(--timeout 5 --retries 0 --extra-index-url "$CPU_INDEX")
        if found="$(resolve_torch "${cpu[@]}" "torch===$TORCH_PIN+cpu")" && [ -n "$found" ]; then
            read -r torch_version torch_mb build <<<"$found"
            index=(--extra-index-url "$CPU_INDEX")
        else
            say "WARNING: this index has no CPU build of torch for this Python: taking the CUDA build, about" \
                "$((CUDA_TORCH_MB / 1000)).$((CUDA_TORCH_MB % 1000 / 100)) GB to download and 6 GB on disk." \
                "It runs on a CPU too. Ctrl-C and PIP_FIND_LINKS=/folder/with/a/cpu/wheel make setup avoid it."
            need_room 9000 "or provide a CPU wheel by PIP_FIND_LINKS"
        fi
    fi
fi

# ---- install ----------------------------------------------------------------------------------------------------

say "installing torch $torch_version and the packages of pyproject.toml into $VENV"
say "downloads at most $((torch_mb + REST_MB)) MB (torch $torch_mb MB, the rest $REST_MB MB), less what pip has cached"
rm -f "$STAMP"
"${pip[@]}" install --prefer-binary ${index[@]+"${index[@]}"} -c constraints.txt "torch===$torch_version" -e '.[dev]' ||
    fail "pip could not install the packages: the reason is above; run \`make setup\` again to go on"

"$VENV/bin/python" -c 'import torch, online_draft' ||
    fail "torch was installed but does not start: the reason is above"
printf '%s %s\n' "$key" "$want" >"$STAMP"
say "done: $VENV/bin/online-draft doctor checks this machine"
