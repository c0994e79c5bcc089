#!/usr/bin/env bash
# run.sh TARGET SECONDS: fuzzes one parser from its committed corpus; new inputs stay in build/, what crashes too.
set -euo pipefail
target=$1 seconds=$2 log=build/fuzz/$1.log
mkdir -p "build/fuzz/corpus/$target"
if "build/fuzz/fuzz_$target" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -artifact_prefix="build/fuzz/crash-$target-" -print_final_stats=1 \
        -verbosity=0 "build/fuzz/corpus/$target" "tests/fuzz/corpus/$target" >"$log" 2>&1; then
    echo "fuzzed $target for $seconds s: $(awk '/number_of_executed_units/ { print $2 }' "$log") inputs"
else
    cat "$log"
    echo "fuzzing $target failed; build/fuzz/crash-$target-* holds the input"
    exit 255                                    # xargs stops
fi
