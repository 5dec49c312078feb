#!/usr/bin/env bash
# make test-wheel: the library as pip installs it, far from this folder: it builds the wheel,
# installs it into an environment of its own, and runs each command in an empty folder.
# The environment borrows the packages of .venv; with FULL=1 pip installs them anew (minutes, 6 GB).
set -euo pipefail
cd "$(dirname "$0")/.."
PY=$PWD/.venv/bin/python
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT

"$PY" -m build --outdir "$WORK/dist" . >"$WORK/build.log" 2>&1 || { cat "$WORK/build.log"; exit 1; }
"$PY" -m venv "$WORK/venv"
if [ -n "${FULL:-}" ]; then
    "$WORK/venv/bin/python" -m pip install --quiet "$WORK"/dist/*.whl
else # the folder without its .pth files: the editable `sat` is not seen
    "$PY" -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
        >"$("$WORK/venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/deps.pth"
    "$WORK/venv/bin/python" -m pip install --quiet --no-deps "$WORK"/dist/*.whl
fi
sed -n '/^```python$/,/^```$/{/^```/d;p}' README.md >"$WORK/readme.py"
grep -oE '(^    |`)sat-(prepare|train|eval|caption|export) [^`]+' README.md | sed 's/^[` ]*//' >"$WORK/readme.lines"
mkdir "$WORK/empty" && cd "$WORK/empty"
PATH=$WORK/venv/bin:$PATH

python -c 'import sat, sys; assert sat.__file__.startswith(sys.prefix), sat.__file__'
python "$WORK/readme.py" && test -s attention.png
while read -r line; do # as a stranger types them: they work, or say in one line what is missing
    said=$($line 2>&1 </dev/null) || [[ $said == *"error: "* && $said != *Traceback* ]] || {
        echo "README: $line"; echo "$said"; exit 1; }
    echo "$line: ${said##*$'\n'}"
done <"$WORK/readme.lines"
sat-caption --img cat.jpg --output cat.png --json cat.json
test -s cat.png && test -s cat.json
sat-prepare --dataset shapes --number 60 --image_size 64 --min_word_freq 1 --output_folder data
sat-train --config shapes --data_folder data --output_dir run --device cpu \
    --encoder.backbone resnet18 --encoder.weights none --encoder.blocks 2 --stages '[1]' \
    --stage1.epochs 1
sat-eval --model run/best --data_folder data --beam_size 1
python -m sat --help
echo "the wheel works: $(ls -lh "$WORK"/dist/*.whl | awk '{print $5}')"
