#!/usr/bin/env bash
# A day with a card, in one command: bench/gpu.sh [--emulated] [PART ..]        docs/card.md
#
#   device self-test ops wrappers sanitize bench torch step         in this order; each alone within 9 minutes, and a part that fails does not stop the others
#
# Needs a driver, the CUDA toolkit's libraries and build/cuda (make CUDA=1), or the folder that `make gpu-bundle` packs. Python and PyTorch for `torch` and the report.
# Results: bench/results/<device>-<commit>.json and .md, and what each part printed in bench/results/<device>-<commit>/.
# --emulated: the emulated CUDA runtime and small sizes, which tries every part that needs no card.
set -u
cd "$(dirname "$0")/.."
emulated=
parts=()
for word in "$@"; do
    case $word in
        --emulated) emulated=1 ;;
        device | self-test | ops | wrappers | sanitize | bench | torch | step) parts+=("$word") ;;
        *) echo "gpu.sh: there is no part '$word'; the parts are device self-test ops wrappers sanitize bench torch step" >&2; exit 2 ;;
    esac
done
[ ${#parts[@]} -gt 0 ] || parts=(device self-test ops wrappers sanitize bench torch step)
build=build/cuda
[ -z "$emulated" ] || build=build/emu-cuda
merv=$build/bin/merv-bench
[ -x $merv ] || { echo "gpu.sh: $merv is not there; build it with $([ -n "$emulated" ] && echo make emu-cuda || echo make CUDA=1)" >&2; exit 2; }
[ ! -d lib ] || export LD_LIBRARY_PATH=$PWD/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}      # of the bundle
export MERV_SELF_TEST=${MERV_SELF_TEST:-0}      # it is a part of its own
limit=${GPU_LIMIT:-540}
small=${emulated:+--small}

out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
timeout "$limit" $merv device --device cuda --output json >"$out/device.json" 2>"$out/device.txt" || { cat "$out/device.txt" >&2; exit 7; }
name=$(sed -n 's/.*"device":"[^,]*, \([^,"]*\).*/\1/p' "$out/device.json" | tr 'A-Z ' 'a-z-' | tr -cd 'a-z0-9-')
commit=$(sed -n 's/.*"commit":"\([^"]*\)".*/\1/p' "$out/device.json")
results=${GPU_RESULTS:-bench/results}/${name:-card}-${commit:-unknown}
mkdir -p "$results"
cp "$out/device.json" "$results/device.json"

failed=
part() {                                        # name, command ..
    local part=$1 begin=$SECONDS code
    shift
    timeout "$limit" "$@" >"$results/$part.out" 2>"$results/$part.err"
    code=$?
    printf '%s\t%d\t%d\n' "$part" $code $((SECONDS - begin)) >>"$results/parts.tsv"
    printf '%-10s %s, %d s\n' "$part" "$([ $code = 0 ] && echo ok || echo "FAILED ($([ $code = 124 ] && echo "over $limit s" || echo "exit $code"))")" $((SECONDS - begin))
    [ $code = 0 ] || { failed=1; tail -n 5 "$results/$part.err" >&2; }
}
missing() { printf '%s\t-1\t0\n' "$1" >>"$results/parts.tsv"; printf '%-10s not run: %s\n' "$1" "$2"; }

: >"$results/parts.tsv"
for p in "${parts[@]}"; do
    case $p in
        device) part device $merv device --device cuda ;;
        self-test) part self-test $merv self-test --device cuda --output json ;;
        ops)
            if [ -n "$emulated" ]; then part ops $build/tests/all -sf='*tests/cases/loss.cpp'
            elif [ -x $build/tests/all ]; then part ops $build/tests/all -sf='*tests/cases/*'
            else missing ops "$build/tests/all is not there"; fi ;;
        wrappers) part wrappers $merv wrappers --device cuda --output json ;;
        sanitize)
            if ! command -v compute-sanitizer >/dev/null; then missing sanitize "there is no compute-sanitizer"; continue; fi
            for tool in memcheck racecheck initcheck synccheck; do
                limit=130 part "sanitize-$tool" compute-sanitizer --tool $tool --error-exitcode 9 $merv self-test --device cuda
            done ;;
        bench) part bench $merv ops --device cuda --output json $small ${emulated:+-r 2} ;;
        torch)
            if python3 -c 'import torch' 2>/dev/null && [ -s "$results/bench.out" ]; then part torch python3 bench/torch_gpu.py "$results/bench.out" ${emulated:+--device cpu --small}
            else missing torch "it takes Python with torch, and the part bench before it"; fi ;;
        step)
            if [ -n "$emulated" ]; then missing step "full size takes a card; merv-bench step --config tiny tries it"; continue; fi
            part step $merv step --device cuda
            part step-train $merv step --train --layers 8 --device cuda ;;
    esac
done
if command -v python3 >/dev/null; then python3 bench/gpu_report.py "$results" && echo "report     $results.md"; else echo "report     not made: there is no python3; $results/ has what each part printed"; fi
[ -z "$failed" ]
