#!/bin/sh
# seed.sh faults.txt FOLDER: copies the files that faults.txt names into FOLDER, each fault in its place and chosen at run time, and writes
# FOLDER/faults.h, which is the list.
set -e
list=$1
to=$2
files=$(sed -n 's/^[^#].* @ [^@]* @ [^@]* @ \([^ ]*\) @ .*/\1/p' "$list" | sort -u)
for f in $files; do
    mkdir -p "$to/$(dirname "$f")"
    { printf '#include <unistd.h>\nbool merv_host_fault(int);\n#line 1 "%s"\n' "$f"; cat "$f"; } > "$to/$f"
done
n=0
echo 'constexpr struct { const char *name, *kind, *says, *file; } faults[] = {' > "$to/faults.h.new"
while IFS= read -r line; do
    case $line in ''|\#*) continue ;; esac
    field() { printf '%s\n' "$line" | awk -F' @ ' -v n="$1" '{ print $n }'; }
    name=$(field 1) kind=$(field 2) says=$(field 3) file=$(field 4) change=$(field 5)
    if [ "$kind" != always ]; then
        n=$((n + 1))
        printf '    {"%s", "%s", "%s", "%s"},\n' "$name" "$kind" "$says" "$file" >> "$to/faults.h.new"
    fi
    # each of the changes, which lie apart by " ; ", has to change something
    printf '%s\n' "$change" | sed "s/FAULT/merv_host_fault($n)/g; s/ ; s|/\ns|/g" > "$to/change"
    while IFS= read -r one; do
        sed "$one" "$to/$file" > "$to/changed"
        if cmp -s "$to/$file" "$to/changed"; then echo "$list: '$name' changes nothing in $file: $one" >&2; exit 1; fi
        mv "$to/changed" "$to/$file"
    done < "$to/change"
done < "$list"
echo '};' >> "$to/faults.h.new"
rm -f "$to/change"
mv "$to/faults.h.new" "$to/faults.h"
