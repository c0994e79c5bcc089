#!/bin/sh
# mutate_layout.sh layout.h mutations.txt: prints a header with one copy of the layout functions per mutation, in namespaces
# merv::test::mutant<n>, and MERV_MUTANTS(f), which is f(1) f(2) ...
set -e
n=0
list=
echo '#pragma once'
while IFS= read -r mutation; do
    case $mutation in ''|\#*) continue ;; esac
    n=$((n + 1))
    list="$list f($n)"
    if sed "$mutation" "$1" | cmp -s - "$1"; then echo "mutation $n changes nothing: $mutation" >&2; exit 1; fi
    sed -e "$mutation" -e "s/namespace merv::emu::layout/namespace merv::test::mutant$n/" -e '/#pragma once/d' "$1"
done < "$2"
echo "#define MERV_MUTANTS(f)$list"
