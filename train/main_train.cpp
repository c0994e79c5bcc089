// merv-train: trains MERV on conversations about clips.
#include <omp.h>
#include "core/program.h"
#include "train/run.h"

using namespace merv;

int main(int argc, char** argv) {
    Flags flags("merv-train", "merv-train --config FILE [--set KEY=VALUE ..] [--resume auto|none|CHECKPOINT] [--dry-run]", {"config", "set", "resume", "dry-run", "device", "threads"});
    return run_program(flags, argc, argv, [&] {
        if (!flags.has("config") && !flags.has("set")) fail(Exit::usage, "--config FILE is missing: a run's settings, as in train/configs; docs/training.md lists them");
        const train::RunConfig config = train::read_run_config(flags.text("config"), flags.texts("set"));
        const OnDevice device(choose_device(flags));
        if (flags.integer("threads") < 0 || flags.integer("threads") > 4096) fail(Exit::usage, "--threads takes 0 to 4096");
        if (flags.integer("threads")) omp_set_num_threads(int(flags.integer("threads")));
        return train::run(config, {.resume = flags.text("resume"), .dry_run = flags.on("dry-run")});
    });
}
