#include "core/flags.h"

namespace merv {

// Frozen once released: a renamed flag keeps its old name as an alias.
std::span<const FlagSpec> flag_table() {
    static const FlagSpec table[] = {
        {"help", FlagSpec::boolean, "false", "", "show this text", 'h'},
        {"version", FlagSpec::boolean, "false", "", "show the version and what it was built with"},
        {"verbose", FlagSpec::boolean, "false", "", "say more on stderr", 'v'},
        {"quiet", FlagSpec::boolean, "false", "", "say nothing on stderr but errors and what other flags ask for", 'q'},
        {"print-config", FlagSpec::boolean, "false", "", "show every setting and where it came from, then stop"},
        {"profile", FlagSpec::boolean, "false", "", "tables on stderr at the end: time by kernel, shape and stage, and memory (docs/profiling.md)"},
        {"trace", FlagSpec::text, nullptr, "FILE", "write every op and stage as Chrome's JSON, which ui.perfetto.dev shows"},

        {"model", FlagSpec::text, nullptr, "DIR", "the model folder (docs/model-folder.md), or a language model's .gguf file", 'm', {"model-path"}},
        {"video", FlagSpec::text, nullptr, "FILE", "a video, a GIF or a folder of frames"},
        {"image", FlagSpec::text, nullptr, "FILE", "a still image, seen as a video of one repeated frame"},
        {"prompt", FlagSpec::text, nullptr, "TEXT", "the question; repeat it to ask several about one clip. Without it a terminal becomes a chat", 'p', {}, true},
        {"prompt-builder", FlagSpec::text, "auto", "NAME", "pure, llama2-chat, vicuna, llama3.1-chat, qwen2.5-chat, smollm2-chat, chatml or raw; auto: the model's own"},
        {"num-frames", FlagSpec::integers, nullptr, "N[,N..]", "frames per encoder; default: the model's"},
        {"clip-start", FlagSpec::number, nullptr, "S", "first second to look at"},
        {"clip-end", FlagSpec::number, nullptr, "S", "last second to look at"},
        {"end-frame", FlagSpec::integer, nullptr, "N", "last frame to look at; replaces clip-start and clip-end"},
        {"frames-fps", FlagSpec::number, nullptr, "F", "frames per second of a folder of frames"},
        {"max-tokens", FlagSpec::integer, "512", "N", "longest answer, in tokens", 'n', {"max-new-tokens"}},
        {"temperature", FlagSpec::number, "0", "T", "0: always the likeliest token; higher: more random", 0, {"temp"}},
        {"top-k", FlagSpec::integer, "0", "K", "sample among the K likeliest tokens; 0: all"},
        {"top-p", FlagSpec::number, "1", "P", "sample among the likeliest tokens of total probability P"},
        {"min-p", FlagSpec::number, "0", "P", "drop tokens less likely than P times the likeliest"},
        {"seed", FlagSpec::integer, "7", "N", "seed of everything random"},
        {"device", FlagSpec::text, "auto", "NAME", "auto, cpu, cuda or cuda:N (a build with CUDA=1), or emu: the CUDA kernels on an emulated GPU, slowly (docs/emulator.md)"},
        {"threads", FlagSpec::integer, "0", "N", "processor threads; 0: all the machine offers", 't'},
        {"fusion", FlagSpec::text, "code", "code|paper", "the mixing formula: the reference code's, or the paper's equation 2"},
        {"lb-flip", FlagSpec::boolean, "false", "", "LanguageBind's random left-right flip, as in the reference code"},
        {"json", FlagSpec::boolean, "false", "", "print one JSON object instead of the answer"},
        {"dump", FlagSpec::text, nullptr, "FILE", "write every stage's tensors to a .safetensors file"},
        {"show-fusion", FlagSpec::boolean, "false", "", "draw how much each encoder counts"},
        {"shapes", FlagSpec::boolean, "false", "", "print one line per stage: shape, type, time, source file"},
        {"dtype", FlagSpec::text, "auto", "TYPE", "f32 or bf16, to compute in or to write; auto: bf16 where the machine multiplies it and the weights have it"},

        {"shape", FlagSpec::text, nullptr, "AxBxC", "sizes of the op, in place of the table's"},
        {"encoder", FlagSpec::text, nullptr, "NAME", "languagebind, dinov2, vivit or siglip; default: all four"},
        {"all-blocks", FlagSpec::boolean, "false", "", "run the encoders' last blocks too, which the model does not use"},
        {"layers", FlagSpec::integer, "4", "N", "layers of the language model"},
        {"tokens", FlagSpec::integer, "1100", "N", "tokens before, or in, what is measured"},
        {"rows", FlagSpec::integer, "1", "N", "tokens decoded at once"},
        {"output", FlagSpec::text, "md", "FORMAT", "md, csv, json or jsonl", 'o'},
        {"repetitions", FlagSpec::integer, "0", "N", "runs of each case; 0: as many as fit into --seconds", 'r'},
        {"seconds", FlagSpec::number, "0.5", "S", "time for each case"},
        {"counters", FlagSpec::boolean, "false", "", "count what GPU kernels ask of memory and tensor cores, on the emulator"},
        {"small", FlagSpec::boolean, "false", "", "small sizes: to try the way, not to time it"},
        {"train", FlagSpec::boolean, "false", "", "optimizer steps instead of an answer"},
        {"lockstep", FlagSpec::boolean, "false", "", "one run per line on stdin, each answered with its milliseconds"},
        {"compare", FlagSpec::boolean, "false", "", "the ratios of two files written with -o json or jsonl"},

        {"config", FlagSpec::text, nullptr, "NAME|FILE", "which model: merv-base or tiny; or a training run's settings"},
        {"set", FlagSpec::text, nullptr, "KEY=VALUE", "a setting in place of the file's; may be repeated", 0, {}, true},
        {"resume", FlagSpec::text, "auto", "auto|none|DIR", "a run goes on from its latest checkpoint, starts afresh, or goes on from this checkpoint"},
        {"media-root", FlagSpec::text, nullptr, "DIR", "the folder that a dataset's videos and images lie below; default: the dataset's own"},
        {"stage", FlagSpec::text, nullptr, "NAME", "align, full-align, finetune or second_finetune: how a sample becomes tokens"},
        {"sample", FlagSpec::text, nullptr, "ID|N", "a sample, by its id or its number from 0"},
        {"out", FlagSpec::text, nullptr, "DIR", "where to write", 'o'},
        {"force", FlagSpec::boolean, "false", "", "overwrite what is there"},
        {"tokenizer", FlagSpec::text, nullptr, "FILE", "the tokenizer.model or tokenizer.json to copy into the folder"},
        {"merv", FlagSpec::text, nullptr, "DIR|FILE", "MERV's checkpoint: the folder with its config.json, or the .pt file"},
        {"llm", FlagSpec::text, nullptr, "DIR", "the language model's folder, or its name on the hub if it is in the cache"},
        {"languagebind", FlagSpec::text, nullptr, "DIR", "LanguageBind_Video_merge, in the same way"},
        {"dinov2", FlagSpec::text, nullptr, "DIR|FILE", "DINOv2 with registers, timm's folder or Facebook's .pth"},
        {"vivit", FlagSpec::text, nullptr, "DIR", "vivit-b-16x2-kinetics400"},
        {"siglip", FlagSpec::text, nullptr, "DIR", "SigLIP ViT-B/16, timm's folder or OpenCLIP's"},
        {"parts", FlagSpec::boolean, "false", "", "write every part into a folder of its own, as it is published"},
        {"dry-run", FlagSpec::boolean, "false", "", "show what would be written, write nothing"},

        {"in", FlagSpec::text, nullptr, "FILE", "the benchmark's own file of questions"},
        {"answers", FlagSpec::text, nullptr, "FILE", "the answers, where a file of their own has them"},
        {"mapping", FlagSpec::text, nullptr, "FILE", "names that belong to the questions: of clips (msvd-qa), frames to cut at (perception-test) or labels (ssv2)"},
        {"temporal-classes", FlagSpec::text, nullptr, "FILE", "the classes of ssv2's temporal subset, one a line; default: six pairs that time alone tells apart"},
        {"open-ended", FlagSpec::boolean, "false", "", "ssv2 as an open question instead of a choice of five"},
    };
    return table;
}

}
