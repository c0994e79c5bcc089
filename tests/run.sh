#!/usr/bin/env bash
# All tests, a process for each source file (large ones first), as many at once as there are cores; the last line counts the test cases.
# CUDA_TESTS=BINARY, a build with the CUDA backend, also runs the tests of tests/host (with `faults` beside it), and products, losses and merv-micro on its CUDA device; without it they count as skipped.
# WITHOUT="FILE ..": their cases are counted as skipped. With arguments (doctest's: -tc='chat*', -ltc, ...) one process runs what they choose.
set -u
all=$1
shift
if [ $# -gt 0 ]; then exec "$all" "$@"; fi
out=$(mktemp -d)
trap 'rm -rf "$out" "$out.times"' EXIT
export all out OMP_WAIT_POLICY=passive          # threads that have nothing to do leave the cores to the other processes
one() {                                         # binary, source file, test cases, policy of the emulated CUDA runtime
    local to
    to=$(mktemp "$out/XXXXXX")
    SECONDS=0
    MERV_CUDA_POLICY=${4:-late} "$1" -sf="*$2" ${3:+-tc="$3"} >"$to" 2>&1
    local code=$?
    echo "$SECONDS s  $2${4:+, $4}" >>"$out.times"
    local counted='^[0-9]+ passed, [0-9]+ failed'
    if [ $code -ne 0 ]; then counted='^[0-9]+ passed, [1-9][0-9]* failed'; fi         # a failure that nobody counted is one more
    if ! tail -n 1 "$to" | grep -qE "$counted"; then
        printf '%s of %s ended with status %d\n0 passed, 1 failed\n' "$2" "$1" $code >>"$to"
    fi
    flock "$out" sed '$d' "$to"                 # one file's output stays together
}
export -f one
without=${WITHOUT:-}
cuda=${CUDA_TESTS:-}
cases() { "$all" -c "$@" | awk 'END { print $NF }'; }
host_cases=$(cat tests/host/*.cpp tests/host/faults/*.cpp | grep -c '^TEST_CASE')
{
    grep -l '^TEST_CASE' tests/cases/*.cpp tests/*.cpp | grep -vxF "${without// /$'\n'}" | xargs ls -S | sed "s|^|$all |"
    if [ -n "$cuda" ]; then
        # other ops' kernels are the emulator's; all of them: $cuda -sf='*tests/cases/*'
        ls tests/host/*.cpp tests/cases/linear.cpp tests/cases/loss.cpp | sed "s|^|$cuda |"
        echo "${cuda%/all}/faults tests/host/faults/faults.cpp"
        for policy in late eager random:1 random:2; do echo "$cuda tests/test_gradients.cpp *CUDA* $policy"; done
    fi
} | xargs -P "$(nproc)" -L 1 bash -c 'one "$@"' one
echo "the longest:" $(sort -rn "$out.times" | head -n 8 | paste -sd';')
expected=$(cases)                               # none may be lost between the processes
left_out=0
if [ -n "$without" ]; then left_out=$((expected - $(cases -sfe="$(printf '*%s,' $without)"))); fi
if [ -z "$cuda" ]; then left_out=$((left_out + host_cases)); else expected=$((expected + 4 + $("$cuda" -c -sf='*tests/cases/linear.cpp,*tests/cases/loss.cpp' | awk 'END { print $NF }'))); fi
tail -qn 1 "$out"/* | awk -v cases="$((expected + host_cases))" -v skipped="$left_out" '{ passed += $1; failed += $3; skipped += $5 }
    END { if (passed + failed + skipped < cases) { printf "%d test cases were not run\n", cases - passed - failed - skipped; failed++ }
        printf "%d passed, %d failed%s\n", passed, failed, skipped ? ", " skipped " skipped" : ""; exit failed > 0 || passed == 0 }'
