#!/usr/bin/env bash
# make gpu-bundle: what bench/gpu.sh needs on a machine that has a driver and CUDA's libraries and nothing else, in build/merv-gpu.tar.xz: programs, the libraries they were
# linked with (FFmpeg's and theirs; not CUDA's, not glibc's), the scripts.
set -euo pipefail
cd "$(dirname "$0")/.."
limit=$((60 * 1000 * 1000))
root=build/merv-gpu
rm -rf $root
mkdir -p $root/lib $root/bench $root/build/cuda/bin $root/build/cuda/tests
cp bench/gpu.sh bench/gpu_report.py bench/torch_gpu.py $root/bench/
for program in bin/merv-bench tests/all; do strip -o $root/build/cuda/$program build/cuda/$program; done
for library in $(ldd $root/build/cuda/bin/merv-bench | awk '$2 == "=>" && $3 ~ /^\// { print $3 }'); do
    case $(basename "$library") in
        libc.so.* | libm.so.* | libpthread.so.* | libdl.so.* | librt.so.* | libresolv.so.* | libcuda* | libcublas* | libnv*) ;;
        *) cp -L "$library" $root/lib/ ;;
    esac
done
cp LICENSE $root/
tar -C build -cJf build/merv-gpu.tar.xz merv-gpu
bytes=$(stat -c %s build/merv-gpu.tar.xz)
echo "build/merv-gpu.tar.xz: $((bytes / 1000000)) MB; unpack it on the machine with the card and run merv-gpu/bench/gpu.sh"
[ "$bytes" -le $limit ] || { echo "bundle.sh: over the limit of $((limit / 1000000)) MB" >&2; exit 1; }
