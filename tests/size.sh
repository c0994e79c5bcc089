#!/bin/sh
# Lines of code by folder, and the two budgets (docs/architecture.md): the reading path and the whole product.
cd "$(dirname "$0")/.." || exit 1
count() { cat /dev/null $(git ls-files -- "$@") | wc -l; }
row() { printf '%-46s %6d\n' "$1" "$2"; }
for folder in core kernels nn models data weights train bench tests; do
    n=$(count "$folder/*.h" "$folder/*.cpp" "$folder/*.cu" "$folder/*.cuh")
    [ "$n" = 0 ] || row "$folder" "$n"
done
reading=$(count 'core/*.h' 'core/*.cpp' 'nn/*.h' 'nn/*.cpp' 'models/*.h' 'models/*.cpp' ':(glob)kernels/*.h' 'kernels/cpu/*' ':!core/emulated_memory.*' ':!core/cuda.*' ':!core/profile*' ':!kernels/work.h' ':!kernels/gpu*.h' ':!models/unicode_tables.h' ':!models/import.*' ':!models/gguf_model.*' ':!kernels/known_answers.h' ':!kernels/wrappers.h')
emulator=$(count ':(glob)kernels/emu/*.h' ':(glob)kernels/emu/*.cpp' 'core/emulated_memory.*')
runtime=$(count 'kernels/emu/runtime/*')
counted=$(($(count 'kernels/emu/count*' 'kernels/emu/graph*') + $(sed -n '/---- counted mode/,$p' kernels/emu/emulator.h | wc -l)))
product=$(($(count core kernels nn models data weights train -- ':!*.md' ':!data/samples') - emulator - runtime))
row 'reading path (core nn models kernels/*.h cpu)' "$reading"
row 'product (without tests, bench, emulator)' "$product"
row 'emulator, fast and checked' "$((emulator - counted))"
row 'emulator, counted' "$counted"
row 'emulated CUDA runtime' "$runtime"
row 'profiler' "$(count 'core/profile*' 'kernels/work.*')"
status=0
[ "$reading" -le 8800 ] || { echo "the reading path is over its budget of 8800 lines"; status=1; }
[ "$product" -le 30000 ] || { echo "the product is over its budget of 30000 lines"; status=1; }
[ $((emulator - counted)) -le 2500 ] || { echo "the emulator's fast and checked modes are over their budget of 2500 lines"; status=1; }
[ "$counted" -le 700 ] || { echo "counted mode is over its budget of 700 lines"; status=1; }
exit $status
