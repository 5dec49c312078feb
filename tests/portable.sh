#!/usr/bin/env bash
# make test-portable: the fast suite in random order under every setting that may change a result.
# A setting that the machine does not have (a Python, another user) is named and left out.
set -uo pipefail
cd "$(dirname "$0")/.."
PY=$PWD/.venv/bin/python
EXTRAS='.[demo,dev,metrics,log,hf,fast,onnx,timm,web]'
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT
report=() failed=0

suite() { # suite LABEL COMMAND...: the fast suite by `COMMAND... -m pytest`
    local label=$1 seed=$RANDOM
    shift
    echo "== $label (--randomly-seed $seed)"
    if "$@" -m pytest -q -n 2 --dist loadfile -m "not slow" \
        --randomly-seed $seed >"$WORK/output" 2>&1; then
        report+=("passed  $label: $(tail -n 1 "$WORK/output")")
    else
        failed=1
        report+=("FAILED  $label: $(tail -n 1 "$WORK/output")")
        grep -E "^(E  |FAILED|ERROR)" "$WORK/output" || tail -n 40 "$WORK/output"
    fi
}

left_out() { report+=("left out $1"); }

suite "as it is" "$PY"
for capability in default avx2; do
    suite "ATEN_CPU_CAPABILITY=$capability" env ATEN_CPU_CAPABILITY=$capability "$PY"
done
for isa in SSE41 AVX2 AVX512_CORE; do
    suite "ONEDNN_MAX_CPU_ISA=$isa" env ONEDNN_MAX_CPU_ISA=$isa "$PY"
done
for threads in 1 2; do
    suite "OMP_NUM_THREADS=$threads" env OMP_NUM_THREADS=$threads "$PY"
done
suite "LC_ALL=C" env LC_ALL=C "$PY"

in_background() { (trap '' INT && exec "$@"); } # SIGINT ignored, as cron and `nohup ... &` do
suite "SIGINT ignored" in_background "$PY"

home=/proc # where root cannot write either
if [ "$(id -u)" != 0 ]; then home=$WORK/home && mkdir -m 500 "$home"; fi
stranger() { # in a home that cannot be written, with files that nobody else may read
    (umask 077 && exec env -u XDG_CACHE_HOME -u HF_HOME -u TORCH_HOME -u MPLCONFIGDIR \
        HOME="$home" "$@")
}
suite "umask 077, read-only home" stranger "$PY"

# Another user may need help to reach a Python below root's home: to read, never to write.
other=(setpriv --reuid 65534 --regid 65534 --clear-groups
    --inh-caps +dac_read_search --ambient-caps +dac_read_search
    env PYTHONDONTWRITEBYTECODE=1 HOME=/tmp "PYTEST_ADDOPTS=-p no:cacheprovider")
if [ "$(id -u)" = 0 ] && "${other[@]}" "$PY" -c 'import torch' 2>/dev/null; then
    suite "another user than root" "${other[@]}" "$PY"
else
    left_out "another user than root: not root, or setpriv cannot"
fi

for version in 3.10 3.12 3.13; do
    python=$(ls -d "$HOME/.pyenv/versions/$version".*/bin/python 2>/dev/null | tail -n 1)
    python=${python:-$(command -v "python$version")}
    if [ -z "$python" ]; then
        left_out "Python $version: not installed"
        continue
    fi
    [ -x ".venv-$version/bin/python" ] || "$python" -m venv ".venv-$version"
    if ".venv-$version/bin/python" -m pip install --quiet --editable "$EXTRAS"; then
        suite "Python $version" ".venv-$version/bin/python"
    else
        failed=1
        report+=("FAILED  Python $version: cannot be set up")
    fi
done

printf '%s\n' "" "== fast suite under each setting" "${report[@]}"
exit $failed
