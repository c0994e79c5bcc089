// merv-train: trains MERV on conversations about clips.
#include <algorithm>
#include <omp.h>
#include "core/program.h"
#include "train/run.h"

using namespace merv;

int main(int argc, char** argv) {
    Flags flags("merv-train", "merv-train --config FILE [--set KEY=VALUE ..] [--resume auto|none|CHECKPOINT] [--dry-run]", {"config", "set", "resume", "dry-run", "on-bad-sample", "feature-cache", "reference-quirks", "without", "val-every", "sample-every", "keep", "device", "threads"});
    return run_program(flags, argc, argv, [&] {
        if (!flags.has("config") && !flags.has("set")) fail(Exit::usage, "--config FILE is missing: a run's settings, as in train/configs; docs/training.md lists them");
        std::vector<std::string> settings = flags.texts("set");
        for (std::string name : {"on-bad-sample", "feature-cache", "reference-quirks", "without", "val-every", "sample-every", "keep"}) {     // settings with flags of their own
            if (!flags.has(name)) continue;
            const bool list = name == "reference-quirks" || name == "without";
            const std::string value = list ? "[" + flags.text(name) + "]" : flags.text(name);
            std::replace(name.begin(), name.end(), '-', '_');
            settings.push_back(name + "=" + value);
        }
        const train::RunConfig config = train::read_run_config(flags.text("config"), settings);
        const OnDevice device(choose_device(flags));
        if (flags.integer("threads") < 0 || flags.integer("threads") > 4096) fail(Exit::usage, "--threads takes 0 to 4096");
        if (flags.integer("threads")) omp_set_num_threads(int(flags.integer("threads")));
        return train::run(config, {.resume = flags.text("resume"), .dry_run = flags.on("dry-run")});
    });
}
