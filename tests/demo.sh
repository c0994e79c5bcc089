#!/bin/sh
# make demo: one question about one real clip, with everything shown on the way. $1: the folder of the programs.
set -e
cd "$(dirname "$0")/.."
ask=${1:-build/bin}/merv-ask
clip=data/samples/nasa_jwst.mp4
question='What is happening in the video?'

cat <<END

merv.cpp watches $clip (NASA, public domain: five seconds of a telescope's mirrors) and is asked:

    $question

The model, tests/golden/merv-tiny, has MERV's four encoders and its language model in miniature, and random weights.
So the answer will be gibberish, but the right gibberish: the tokens PyTorch gives with the same weights, every one.

Each line is a stage: what it makes, its shape, the time it took, the file that computes it. The bars say how much each
encoder counts in the mix.

END
start=$(date +%s%N)
answer=$("$ask" -m tests/golden/merv-tiny --video $clip --prompt "$question" --max-tokens 48 --shapes --show-fusion)
milliseconds=$((($(date +%s%N) - start) / 1000000))
cat <<END

The answer:

    $answer

$((milliseconds / 1000)).$((milliseconds % 1000 / 100)) s in all, from the video file to the last word.

Next:
END
printf '    %-30s %s\n' "$ask --help" 'your own clip: --video FILE or --image FILE, --prompt TEXT' \
    docs/model-folder.md 'how to run the released weights, which answer in English' \
    README.md 'what to read first, to see how each stage works'
