// merv-train as its users meet it: what a run writes, that stopping it anywhere changes nothing, and what it says of every mistake.
#include "tests/run_program.h"
#include <chrono>
#include <random>
#include <thread>
#include "train/checkpoint.h"

using namespace merv;
using namespace merv::test;
namespace fs = std::filesystem;

namespace {

const char* const kDataset = R"([
 {"id": "rocket", "video": "nasa_jwst.mp4", "conversations": [{"from": "human", "value": "<video>\nWhat is shown?"}, {"from": "gpt", "value": "A rocket on its launch pad."}]},
 {"id": "man", "video": "nasa_jwst.mp4", "conversations": [{"from": "human", "value": "<video>\nWho speaks?"}, {"from": "gpt", "value": "A man."}, {"from": "human", "value": "Where?"}, {"from": "gpt", "value": "Outside."}]},
 {"id": "colour", "conversations": [{"from": "human", "value": "Name a colour."}, {"from": "gpt", "value": "Blue."}]},
 {"id": "day", "video": "nasa_jwst.mp4", "conversations": [{"from": "human", "value": "<video>\nIs it day?"}, {"from": "gpt", "value": "Yes, the sky is blue."}]}])";

// A folder with media, a dataset and a feature cache that is filled once for all tests.
struct Place {
    TempDir dir;
    std::string dataset = dir / "train.json";
    explicit Place(const std::string& json = kDataset) {
        fs::create_directory(dir / "media");
        fs::copy_file("data/samples/nasa_jwst.mp4", dir / "media/nasa_jwst.mp4");
        write_file(dataset, json);
    }
    Words words(const std::string& run, const Words& more = {}) const {
        Words w = {"--device", "cpu"};
        Words set = {"model_dir=" + golden("merv-tiny"), "dataset=" + dataset, concat("media_root=", dir / "media"), "dtype=f32", "global_batch_size=2", "per_device_batch_size=1", "buckets=2",
                     "max_steps=6", "save_every=2", "learning_rate=1e-3", "run_root=" + (dir / "runs"), "run_id=" + run, "feature_cache=" + cache()};
        for (const std::string& m : more) {
            if (m.starts_with("--")) w.push_back(m);
            else if (w.back() == "--resume") w.push_back(m);
            else set.push_back(m);
        }
        for (const std::string& s : set) w.push_back("--set"), w.push_back(s);
        return w;
    }
    Run run(const std::string& name, const Words& more = {}, const std::string& environment = "") const { return run_program(built("merv-train"), words(name, more), environment); }
    std::string folder(const std::string& run) const { return dir / ("runs/" + run); }
    std::string checkpoint(const std::string& run, int step) const { return concat(folder(run), "/checkpoints/step-00000", step); }
    static const std::string& cache() {
        static const TempDir shared;
        static const std::string path = shared / "features";
        return path;
    }
};

void expect_same_files(const std::string& a, const std::string& b) {
    for (const char* file : {"model.safetensors", "optimizer.safetensors"}) EXPECT_MESSAGE((read_file(a + "/" + file) == read_file(b + "/" + file) && !read_file(a + "/" + file).empty()), file, " of ", a, " and ", b);
}
std::vector<Json> lines(const std::string& path) {
    std::vector<Json> all;
    std::istringstream text(read_file(path));
    for (std::string line; std::getline(text, line);) all.push_back(parse_json(line, path));
    return all;
}

// Starts the program and returns at once.
pid_t start(const Words& arguments) {
    const pid_t child = fork();
    if (child) return child;
    std::vector<char*> argv;
    const std::string program = built("merv-train");
    argv.push_back(const_cast<char*>(program.c_str()));
    for (const std::string& a : arguments) argv.push_back(const_cast<char*>(a.c_str()));
    argv.push_back(nullptr);
    setenv("MERV_ARG_THREADS", "1", 1);
    if (!std::freopen("/dev/null", "w", stderr)) _exit(126);
    execv(program.c_str(), argv.data());
    _exit(127);
}
int code_of(pid_t child) {
    int status = 0;
    waitpid(child, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

}

TEST_CASE("merv-train: a run writes its settings, a line per step, the curve, answers and checkpoints") {
    const Place p;
    Words words = p.words("r", {"val_dataset=" + p.dataset});
    for (const char* flag : {"--sample-every", "6", "--val-every=3", "--keep", "2", "--reference-quirks", "lr-align,bad-sample"}) words.push_back(flag);
    const Run r = succeeded(run_program(built("merv-train"), words));
    for (const char* part : {"plan     6 steps of 2 samples", "TMAC", "optimizer", "step 6/6  loss ", "validation after step 3", "sample   nasa_jwst.mp4: ", "saved    "}) EXPECT_SAYS(r.err, part);
    const std::string folder = p.folder("r");
    const std::vector<Json> all = lines(folder + "/r.jsonl");
    REQUIRE_EQ(all.size(), 8);                  // six steps, two validations
    for (const char* key : {"Finetune/Step", "Finetune/Loss", "Finetune/Loss (Raw)", "Finetune/Learning Rate", "Finetune/Step Time", "Finetune/Left Time", "loss", "grad_norm", "data_ms", "tokens_per_s", "memory"})
        EXPECT_MESSAGE(all[0].contains(key), key);
    EXPECT_EQ(all[0]["lr"], 1e-3);              // no warmup step in six of them: int(6 * 0.03) is 0
    EXPECT(parse_json(read_file(folder + "/config.json"), "config")["reference_quirks"] == (Json{"lr-align", "bad-sample"}));
    EXPECT_SAYS(r.err, "settings {\"model_dir\":");
    EXPECT_EQ(lines(folder + "/run-metrics.jsonl")[0]["run_id"], "r");
    EXPECT_EQ(parse_json(read_file(folder + "/config.json"), "config")["global_batch_size"], 2);
    EXPECT_SAYS(read_file(folder + "/loss.svg"), "<svg");
    EXPECT_EQ(lines(folder + "/samples.jsonl").size(), 2);
    EXPECT_EQ(read_file(folder + "/checkpoints/latest"), "step-000006\n");
    EXPECT_FALSE(fs::exists(p.checkpoint("r", 2)));             // keep=2
    EXPECT(fs::exists(p.checkpoint("r", 4) + "/DONE"));
    EXPECT_SAYS(succeeded(p.run("r")).err, "6 of 6 steps done");
    EXPECT_SAYS(p.run("r", {"--resume", "none"}).err, "holds checkpoints of a run");
    // the export is a folder for merv-ask
    succeeded(run_program(built("merv-weights"), {"export", folder, "--out", p.dir / "x"}));
    EXPECT_EQ(run_program(built("merv-ask"), {"-m", p.dir / "x", "--video", "data/samples/nasa_jwst.mp4", "-p", "What is shown?", "-n", "4"}).code, 0);
}

TEST_CASE("merv-train: workers, threads, the cache and an earlier stop do not change a byte") {
    const Place p;
    succeeded(p.run("whole"));
    succeeded(p.run("alone", {"workers=0"}));
    succeeded(p.run("many", {"workers=4", "prefetch=3"}, "MERV_ARG_THREADS=2"));
    succeeded(p.run("afresh", {"feature_cache="}));
    succeeded(p.run("stopped", {"max_steps=6"}));
    fs::remove_all(p.checkpoint("stopped", 6));
    write_file(p.folder("stopped") + "/checkpoints/latest", "step-000002\n");
    succeeded(p.run("stopped"));
    for (const char* other : {"alone", "many", "afresh", "stopped"}) expect_same_files(p.checkpoint("whole", 6), p.checkpoint(other, 6));
    EXPECT_EQ(lines(p.folder("stopped") + "/stopped.jsonl").size(), 6);
}

TEST_CASE("merv-train: killed at any moment, a run goes on and ends with the same bytes") {
    const Place p;
    const Words settings = {"max_steps=60", "save_every=3", "dataset=" + p.dataset};
    succeeded(p.run("whole", settings));
#ifdef MERV_EXACT_BLOCKS                        // with sanitizers a start takes seconds
    const int kills = 2, delay = 4000;
#else
    const int kills = std::getenv("MERV_TEST_SOAK") ? 100 : 10, delay = 500;
#endif
    std::mt19937 random(20);
    int killed = 0, runs = 0;
    for (; killed < kills; runs++) {
        const pid_t child = start(p.words("killed", settings));
        std::this_thread::sleep_for(std::chrono::milliseconds(60 + random() % delay));
        kill(child, SIGKILL);
        const int code = code_of(child);
        if (code == 128 + SIGKILL) killed++;
        else REQUIRE_EQ(code, 0);
        if (code == 0) fs::remove_all(p.folder("killed"));      // done before the blow: from the start
    }
    succeeded(p.run("killed", settings));
    expect_same_files(p.folder("whole") + "/checkpoints/step-000060", p.folder("killed") + "/checkpoints/step-000060");
    std::printf("  killed %d times in %d runs\n", killed, runs);
}

TEST_CASE("merv-train: SIGTERM and SIGINT end it with a checkpoint, exit 75 and 130") {
    const Place p;
    const Words settings = {"max_steps=4000", "save_every=0"};
    for (const auto& [signal, code] : {std::pair{SIGTERM, 75}, {SIGINT, 130}}) {
        const std::string name = signal == SIGTERM ? "term" : "int", log = p.folder(name) + "/" + name + ".jsonl";
        const pid_t child = start(p.words(name, settings));
        for (int i = 0; i < 2000 && read_file(log).empty(); i++) std::this_thread::sleep_for(std::chrono::milliseconds(10));
        kill(child, signal);
        EXPECT_EQ(code_of(child), code);
        const auto saved = train::find_checkpoint("auto", p.folder(name));
        EXPECT_GT(saved.progress.step, 0);
        EXPECT_EQ(lines(log).size(), saved.progress.step);
    }
}

TEST_CASE("merv-train: bad samples fail the run, are skipped or replaced, and are counted") {
    std::string json = kDataset;
    json.replace(json.find("nasa_jwst.mp4", json.find("\"day\"")), 13, "broken.mp4   ");
    json.replace(json.find("broken.mp4   "), 13, "broken.mp4");
    const Place p(json);
    write_file(p.dir / "media/broken.mp4", read_file("data/samples/nasa_jwst.mp4").substr(0, 3000));
    const Run failed = p.run("fail");
    EXPECT_EQ(failed.code, 3);
    EXPECT_SAYS(failed.err, "broken.mp4");
    for (const std::string how : {"skip", "substitute"}) {
        const Run r = succeeded(p.run(how, {"on_bad_sample=" + how}));
        EXPECT_SAYS(r.err, how == "skip" ? "'day'), broken.mp4 is skipped: " : "'day'), broken.mp4 is replaced by sample ");
        EXPECT_GT(lines(p.folder(how) + "/" + how + ".jsonl").back()[how == "skip" ? "skipped_samples" : "substituted_samples"].get<int>(), 0);
        succeeded(p.run(how + "-again", {"on_bad_sample=" + how, "workers=4"}));
        expect_same_files(p.checkpoint(how, 6), p.checkpoint(how + "-again", 6));
    }
}

TEST_CASE("merv-train: a loss or norm that is not finite, and a spike, stop it with exit 6 and say what and where") {
    const Place p;
    const Run r = p.run("nan", {"learning_rate=1e30", "max_grad_norm=0"});
    EXPECT_EQ(r.code, 6);
    EXPECT_SAYS(r.err, "nothing was changed by it");
    EXPECT_SAYS(r.err, "the first value that is not finite is of ");
    const Json bad = parse_json(read_file(p.folder("nan") + "/bad-step-000002.json"), "bad");
    EXPECT_EQ(bad["batch"].size(), 2);
    EXPECT(fs::exists(p.folder("nan") + "/bad-step-000002.safetensors"));
    EXPECT_EQ(train::find_checkpoint("auto", p.folder("nan")).progress.step, 1);
    const Run skipped = succeeded(p.run("skip", {"learning_rate=1e30", "max_grad_norm=0", "on_bad_step=skip", "max_steps=3"}));
    EXPECT_SAYS(skipped.err, "(skipped)");
    succeeded(p.run("spike", {"max_steps=12"}));
    const Run spike = p.run("spike", {"max_steps=20", "spike_factor=2", "learning_rate=3", "lr_scheduler_type=constant"});
    EXPECT_EQ(spike.code, 6);
    EXPECT_SAYS(spike.err, "is above 2 times its running mean");
}

TEST_CASE("merv-train: mistakes are named, with what to do, before anything is changed") {
    const Place p;
    auto refused = [&](int code, const std::string& says, const Words& more) {
        const Run r = p.run("m", more);
        CAPTURE(r.err);
        EXPECT_EQ(r.code, code);
        EXPECT_SAYS(r.err, says);
    };
    refused(2, "did you mean 'learning_rate'?", {"learning_rat=1"});
    refused(2, "max_steps is \"many\"; it takes a whole number", {"max_steps=many"});
    refused(2, "is no multiple of per_device_batch_size", {"per_device_batch_size=3"});
    refused(2, "setting stage is 'tune'", {"stage=tune"});
    refused(2, "setting without has 'speed'", {"without=speed"});
    refused(3, "no such file", {"dataset=" + (p.dir / "none.json")});
    refused(4, "no such folder", {"model_dir=" + (p.dir / "none")});
    refused(1, "cannot be made", {"run_root=/proc/none"});
    auto dataset = [&](int code, const std::string& says, const std::string& json) {
        write_file(p.dir / "other.json", json);
        refused(code, says, {"dataset=" + (p.dir / "other.json")});
    };
    const std::string turns = R"("conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}])";
    dataset(3, "lies outside the media root", R"([{"id": "x", "video": "../secret.mp4", )" + turns + "}]");
    dataset(3, "lies outside the media root", R"([{"id": "x", "video": "/etc/passwd", )" + turns + "}]");
    dataset(3, "none.mp4", R"([{"id": "x", "video": "none.mp4", )" + turns + "}]");
    dataset(3, "record 0", "[" + std::string(10000, '[') + std::string(10000, ']') + "]");
    dataset(3, "ends inside record 0", "[" + std::string(10000, '['));
    dataset(3, "human and gpt take turns", R"([{"conversations": [{"from": "gpt", "value": "a"}]}])");
    EXPECT_FALSE(fs::exists(p.folder("m") + "/checkpoints"));
}

TEST_CASE("merv-train: a flipped bit in a checkpoint is found and named; a full disk leaves the old checkpoint as it was") {
    const Place p;
    succeeded(p.run("c"));
    for (const char* file : {"model.safetensors", "optimizer.safetensors", "state.json"}) {
        const std::string path = p.checkpoint("c", 6) + "/" + file, good = read_file(path);
        std::string bad = good;
        bad[bad.size() / 2] = char(bad[bad.size() / 2] ^ 4);
        write_file(path, bad);
        const Run r = p.run("c");
        EXPECT_EQ(r.code, 4);
        EXPECT_SAYS(r.err, file);
        write_file(path, good);
    }
    succeeded(p.run("full", {"max_steps=2"}));
    const std::string before = read_file(p.checkpoint("full", 2) + "/model.safetensors");
    std::string command = "ulimit -f 600; trap '' XFSZ; MERV_ARG_THREADS=1 " + built("merv-train");        // blocks of 1 KiB (bash) or 512 bytes: less than a checkpoint
    for (const std::string& w : p.words("full")) command += " '" + w + "'";
    command += " 2>'" + (p.dir / "err") + "'";
    write_file(p.dir / "full.sh", command);
    const int status = std::system(("bash '" + (p.dir / "full.sh") + "'").c_str());
    EXPECT_EQ(WEXITSTATUS(status), 1);
    EXPECT_SAYS(read_file(p.dir / "err"), "cannot be written");
    EXPECT_EQ(read_file(p.folder("full") + "/checkpoints/latest"), "step-000002\n");
    EXPECT(read_file(p.checkpoint("full", 2) + "/model.safetensors") == before);
    EXPECT_FALSE(fs::exists(p.checkpoint("full", 4)));
    succeeded(p.run("full"));
}
