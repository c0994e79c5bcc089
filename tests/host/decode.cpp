// Decoding as a CUDA graph (core/cuda.h: RepeatedStep), on the emulated runtime: PyTorch's tokens, the cache's length, what a refused update and a full arena do.
#include "core/autograd.h"
#include "core/cuda.h"
#include "kernels/cuda/host/graph.h"
#include "kernels/elementwise.h"
#include "models/load.h"
#include "models/merv.h"
#include "nn/functional.h"
#include "tests/host/cuda.h"
#include "weights/safetensors.h"

using namespace merv;
using namespace merv::test;

namespace {

struct Setting {                                // an environment variable, in scope
    const char* name;
    Setting(const char* n, const char* value) : name(n) { setenv(n, value, 1); }
    ~Setting() { unsetenv(name); }
};
std::vector<int32_t> ints(const TensorFile& file, const std::string& name) {
    const Tensor t = file.tensor(name);
    return {t.data<int32_t>(), t.data<int32_t>() + t.numel()};
}

// merv-micro as PyTorch ran it (tests/golden/micro.py): a clip, a question, and the tokens that follow
struct Micro {
    std::shared_ptr<const TensorFile> golden = SafeTensors::open(merv::test::golden("micro.safetensors"));
    LoadedModel loaded = load_model(merv::test::golden("merv-micro"), {.dtype = DType::f32});
    std::vector<int32_t> tokens = ints(*golden, "tokens");
    Tensor embeds;
    KvCache cache;
    Micro() {
        Clip clip;
        clip.frames = golden->tensor("clip");
        for (int32_t i = 0; i < 16; i++) clip.grid.push_back(i);
        const Visual visual = loaded.merv.see(clip, {});
        embeds = loaded.merv.splice(ints(*golden, "prompt_tokens"), &visual);
    }
    std::vector<int32_t> answer(GenerateOptions o, int64_t room = 64, const std::function<bool(int32_t)>& on_token = {}) {
        const Llama& llm = loaded.merv.llm;
        cache = llm.cache(embeds.dim(0) + room);
        const Tensor hidden = llm.forward(embeds, cache);
        return generate(llm, cache, llm.logits(hidden.slice(hidden.dim(0) - 1, hidden.dim(0))), o, on_token);
    }
    int64_t prompt() const { return embeds.dim(0); }
};
Micro& micro() {                                // the clip is encoded once; never destroyed
    open_cuda(0);
    static Micro* const m = [] {
        const NoGrad inference;
        const OnDevice on(Device::cuda);
        return new Micro;
    }();
    return *m;
}

template <class F> std::string reports_text(Policy policy, unsigned seed, F&& f) {           // without freeing what the engine keeps
    emulated::take_reports();
    emulated::configure(policy, seed);
    f();
    emulated::finish();
    return text_of(emulated::take_reports());
}

}

TEST_CASE("decode: by graphs, merv-micro says PyTorch's tokens under every policy, and is not reported") {
    Micro& m = micro();
    const NoGrad inference;
    const OnDevice on(Device::cuda);
    const int64_t count = int64_t(m.tokens.size());
    REQUIRE(count >= 4);
    auto run = [&](Policy policy, unsigned seed) {
        CAPTURE(name_of(policy));
        CAPTURE(seed);
        EXPECT_EQ(reports_text(policy, seed, [&] { EXPECT(m.answer({.max_tokens = count, .sampling = {}, .stop = {}}) == m.tokens); }), "");
        EXPECT_EQ(m.cache.length, m.prompt() + count - 1);      // the last token has not been seen
    };
    run(Policy::late, 1);
    run(Policy::eager, 1);
    for (unsigned seed = 1; seed <= 3; seed++) run(Policy::random, seed);
}

TEST_CASE("decode: graphs are launched, unless MERV_GRAPH=0 or SYNC=1 asks for plain launches") {
    Micro& m = micro();
    const NoGrad inference;
    const OnDevice on(Device::cuda);
    const GenerateOptions o{.max_tokens = int64_t(m.tokens.size()), .sampling = {}, .stop = {}};
    emulated::fail_next("cudaGraphLaunch", cudaErrorLaunchFailure);
    try {
        m.answer(o);
        FAIL_CHECK("no graph was launched");
    } catch (const Error& e) {
        EXPECT_EQ(int(e.code), int(Exit::device));
        EXPECT_SAYS(e.what(), "a captured step");
    }
    for (const auto& [name, value] : {std::pair("MERV_GRAPH", "0"), std::pair("SYNC", "1")}) {
        const Setting plain(name, value);
        emulated::fail_next("cudaGraphLaunch", cudaErrorLaunchFailure);
        EXPECT(m.answer(o) == m.tokens);
    }
    emulated::configure(Policy::late);          // forgets the failure that nobody met
}

TEST_CASE("decode: a step that was captured and is not launched leaves the cache as long as it is") {
    Micro& m = micro();
    const NoGrad inference;
    const OnDevice on(Device::cuda);
    const std::vector<int32_t>& want = m.tokens;
    const GenerateOptions all{.max_tokens = int64_t(want.size()), .sampling = {}, .stop = {}};
    for (size_t n = 1; n < want.size(); n++) {
        CAPTURE(n);
        size_t seen = 0;
        EXPECT(m.answer(all, 64, [&](int32_t) { return ++seen < n; }) == std::vector<int32_t>(want.begin(), want.begin() + int64_t(n)));
        EXPECT_EQ(m.cache.length, m.prompt() + int64_t(n) - 1);
        // and it goes on from there, by graphs of its own, with the tokens that would have come
        const Llama& llm = m.loaded.merv.llm;
        const Tensor logits = llm.logits(llm.forward(llm.embed(std::span(&want[n - 1], 1)), m.cache));
        EXPECT(generate(llm, m.cache, logits, {.max_tokens = int64_t(want.size() - n), .sampling = {}, .stop = {}}) == std::vector<int32_t>(want.begin() + int64_t(n), want.end()));
    }
    EXPECT_EQ(m.answer({.max_tokens = 100, .sampling = {}, .stop = {want[0]}}).size(), 1u);
    EXPECT_EQ(m.cache.length, m.prompt());
    m.answer({.max_tokens = 100, .sampling = {}, .stop = {}}, 3);       // until the cache is full: no capture begins there
    EXPECT_EQ(m.cache.length, m.cache.capacity());
}

TEST_CASE("decode: a refused update is instantiated anew") {
    Micro& m = micro();
    const NoGrad inference;
    const OnDevice on(Device::cuda);
    int asked = 0;
    const auto refuse = [&](int32_t) { return emulated::fail_next("cudaGraphExecUpdate", cudaErrorGraphExecUpdateFailure), asked++, true; };
    EXPECT(m.answer({.max_tokens = int64_t(m.tokens.size()), .sampling = {}, .stop = {}}, 64, refuse) == m.tokens);
    EXPECT_EQ(asked, int(m.tokens.size()));
    emulated::configure(Policy::late);
}

// Each step needs more memory than the one before, so that captures find the arena full: then steps run plainly, and captures go on.
TEST_CASE("decode: a step that outgrows the arena runs plainly, and the next is captured") {
    open_cuda(0);
    const OnDevice on(Device::cuda);
    const NoGrad inference;
    const Tensor table = from_floats(std::vector<float>{1, 10, 2, 20, 3, 30, 4, 40}, {4, 2});
    int64_t position = 0, steps = 0;
    RepeatedStep step([&](const Tensor& id) {
        steps++;
        const Tensor large = zeros({(position + 1) << 20});                 // 4 MiB more each time
        const Tensor row = nn::embedding(table, id, DType::f32);
        large.slice(0, 2).copy_from(row.reshape({2}));
        position++;
        return nn::add(row, large.slice(0, 2).reshape({1, 2}));
    }, position, 8);
    const std::string reports = reports_text(Policy::late, 1, [&] {
        for (const int32_t id : {3, 0, 1, 2, 2, 1, 0, 3}) {
            const int64_t before = position;
            EXPECT(to_floats(step(id)) == std::vector<float>{2.0f * float(id + 1), 20.0f * float(id + 1)});
            EXPECT_EQ(position, before + 1);
        }
    });
    EXPECT_EQ(reports, "");
    EXPECT_GE(steps, 9);                        // some capture was lost to a full arena and run again
    EXPECT_LE(steps, 15);
}

TEST_CASE("decode: a captured step may not copy from or to the host, and says so") {
    open_cuda(0);
    const OnDevice on(Device::cuda);
    const Tensor here({4}, DType::f32, Device::cpu), there = zeros({4});
    const std::unique_ptr<CudaGraph> graph = cuda().graph();
    EXPECT_EQ(reports_text(Policy::late, 1, [&] {
        EXPECT_THROWS_WITH_AS(graph->capture([&] { there.copy_from(here); }), doctest::Contains("which a graph would repeat as they were"), std::exception);
        EXPECT_THROWS_WITH_AS(graph->launch(), doctest::Contains("before it is captured"), std::exception);
        EXPECT(graph->capture([&] { kernels::add({.y = there, .a = there, .b = there}); }));         // it can be used again
        graph->launch();
        cuda().synchronize();
    }), "");
}

TEST_CASE("decode: memory freed in a capture that is not the arena's stays until the graph is captured again, or gone") {
    open_cuda(0);
    const OnDevice on(Device::cuda);
    auto used = [] {
        cudaMemPool_t pool;
        uint64_t bytes = 0;
        cudaDeviceGetDefaultMemPool(&pool, 0);
        cudaMemPoolGetAttribute(pool, cudaMemPoolAttrUsedMemCurrent, &bytes);
        return bytes;
    };
    std::vector<float> got;
    EXPECT_EQ(reports_text(Policy::late, 1, [&] {
        const uint64_t before = used();
        for (const bool again : {false, true}) {
            const std::unique_ptr<CudaGraph> graph = cuda().graph();
            Tensor x = from_floats(std::vector<float>{1, 2, 3, 4}, {4});
            const Tensor y = zeros({4});
            const uint64_t both = used();
            EXPECT(graph->capture([&] { kernels::add({.y = y, .a = x, .b = x}), x = {}; }));
            EXPECT_EQ(used(), both);
            {
                const Tensor taken = zeros({4});        // would be where x was
                graph->launch();
                got = to_floats(y);
            }
            EXPECT(got == std::vector<float>{2, 4, 6, 8});
            if (!again) continue;
            EXPECT(graph->capture([&] { kernels::add({.y = y, .a = y, .b = y}); }));
            EXPECT_LT(used(), both);
        }
        EXPECT_EQ(used(), before);
    }), "");
}

TEST_CASE("decode: the arena gives the same places in the same order, none twice, and grows only where it may") {
    open_cuda(0);
    Arena a;
    EXPECT(a.take(100, false) == nullptr);
    std::vector<std::vector<std::byte*>> rounds;
    const std::vector<size_t> sizes = {1000, 1, 256, 257, 100000, 300, 0};
    for (int round = 0; round < 3; round++) {
        std::vector<std::byte*> held;
        for (const size_t n : sizes) held.push_back(a.take(n, true));
        for (size_t i = 0; i < held.size(); i++) {
            EXPECT_EQ(uintptr_t(held[i]) % 256, 0u);
            for (size_t j = 0; j < i; j++) EXPECT(held[i] >= held[j] + std::max<size_t>(sizes[j], 1));       // in order of place, none overlapping
        }
        rounds.push_back(held);
        for (const size_t i : {size_t(3), size_t(1), size_t(2), size_t(0), size_t(6), size_t(4), size_t(5)}) EXPECT(a.give_back(held[i]));
    }
    EXPECT(rounds[0] == rounds[1]);
    EXPECT(rounds[0] == rounds[2]);
    std::byte* whole = a.take(Arena::kChunk, false);        // what was freed has become one piece again
    EXPECT(whole == rounds[0][0]);
    EXPECT(a.take(1, false) == nullptr);
    EXPECT(a.take(3 * Arena::kChunk, true) != nullptr);
    std::byte elsewhere;
    EXPECT_FALSE(a.give_back(&elsewhere));
}
