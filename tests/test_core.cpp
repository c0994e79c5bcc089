// core: shapes, tensors, memory by owner, the tape, random numbers, flags, text for terminals.
#include "tests/test.h"
#include "core/autograd.h"
#include "core/flags.h"
#include "core/log.h"
#include "core/rng.h"

using namespace merv;

TEST_CASE("bf16 rounds to nearest even") {
    EXPECT_EQ(float(bf16(1.0f)), 1.0f);
    EXPECT_EQ(bf16(1.00390625f).bits, 0x3f80);           // halfway between 1 and the next: to even
    EXPECT_EQ(bf16(1.01171875f).bits, 0x3f82);           // halfway: to even, upwards
    EXPECT_EQ(bf16(3.4e38f).bits, 0x7f80);               // overflows to infinity
    EXPECT(std::isnan(float(bf16(NAN))));
    EXPECT_EQ(bf16(-0.0f).bits, 0x8000);
}

TEST_CASE("tensor: views share bytes, shapes are checked") {
    Tensor t = from_floats(std::vector<float>{0, 1, 2, 3, 4, 5}, {3, 2});
    EXPECT_EQ(t.slice(1, 3).data<float>()[0], 2.0f);
    EXPECT_EQ(t.reshape({2, 3}).dim(-1), 3);
    EXPECT_EQ(t.slice(1, 3).reshape({4}).data<float>()[3], 5.0f);
    EXPECT_THROWS_WITH_AS(t.reshape({4}), doctest::Contains("reshape f32(3, 2) to (4)"), std::logic_error);
    EXPECT_THROWS_AS(t.data<bf16>(), std::logic_error);
    EXPECT_THROWS_AS(t.slice(2, 4), std::logic_error);
    EXPECT_THROWS_AS(Shape({int64_t(1) << 40, int64_t(1) << 40}), std::logic_error);
    EXPECT_EQ(to_floats(from_floats(std::vector<float>{1.00390625f}, {1}, DType::bf16))[0], 1.0f);
}

TEST_CASE("tensor: a declared tensor throws until it is bound") {
    Tensor w = Tensor::declare({2, 2});
    EXPECT_THROWS_WITH_AS(w.data<float>(), doctest::Contains("before its values were loaded"), std::logic_error);
    EXPECT_THROWS_AS(w.bind(zeros({4})), std::logic_error);
    w.bind(zeros({2, 2}, DType::bf16));
    EXPECT_EQ(w.dtype(), DType::bf16);
}

TEST_CASE("memory is booked by owner") {
    const size_t before = memory_by_tag()["test"];
    {
        MemTag tag("test");
        Tensor a({1000});
        EXPECT_EQ(memory_by_tag()["test"], before + 4000);
    }
    EXPECT_EQ(memory_by_tag()["test"], before);
    EXPECT_GE(peak_memory_by_tag()["test"], before + 4000);
}

TEST_CASE("tape: records only what needs a gradient, and names an op without one") {
    Tape::current().clear();
    Tensor x = zeros({2}), y = zeros({2});
    EXPECT_FALSE(record("f", y, {&x}).needs_grad());
    x.set_needs_grad();
    { NoGrad off; EXPECT_FALSE(record("f", y, {&x}).needs_grad()); }
    Tensor g;
    Tensor z = record("g", zeros({2}), {&x}, [&](const Tensor& dy) { g = dy; });
    Tape::current().backward(z, from_floats(std::vector<float>{1, 2}, {2}));
    EXPECT_EQ(to_floats(g)[1], 2.0f);
    EXPECT_EQ(Tape::current().size(), 0);
    Tensor h = record("h", zeros({2}), {&x});
    EXPECT_THROWS_WITH_AS(Tape::current().backward(h, zeros({2})), doctest::Contains("backward reached h"), std::logic_error);
}

TEST_CASE("philox equals the published known answers") {   // Random123's kat_vectors, philox4x32 10 rounds
    using A = std::array<uint32_t, 4>;
    EXPECT(philox({0, 0, 0, 0}, {0, 0}) == A{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8});
    EXPECT(philox({~0u, ~0u, ~0u, ~0u}, {~0u, ~0u}) == A{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd});
    EXPECT(philox({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}) == A{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1});
}

TEST_CASE("rng: a pure function of seed, purpose and index, with the right moments") {
    Rng a(7, "weights"), b(7, "weights"), c(7, "sampling"), d(8, "weights");
    EXPECT_EQ(a.uniform(5), b.uniform(5));
    EXPECT_NE(a.uniform(5), c.uniform(5));
    EXPECT_NE(a.uniform(5), d.uniform(5));
    double sum = 0, squares = 0;
    const int n = 100000;
    for (int i = 0; i < n; i++) {
        const double v = a.normal(uint64_t(i));
        sum += v, squares += v * v;
    }
    EXPECT_LT(std::abs(sum / n), 4 / std::sqrt(n));                      // four standard errors
    EXPECT_LT(std::abs(squares / n - 1), 4 * std::sqrt(2.0 / n));
}

static Flags parsed(std::vector<const char*> args, bool* go_on = nullptr) {
    Flags f("merv-test", "merv-test", {"model", "video", "clip-start", "max-tokens", "num-frames", "json", "prompt"}, 1);
    args.insert(args.begin(), "merv-test");
    const bool b = f.parse(int(args.size()), args.data());
    if (go_on) *go_on = b;
    return f;
}

TEST_CASE("flags: forms of names, values and numbers") {
    EXPECT_EQ(parsed({"-m", "dir"}).text("model"), "dir");
    EXPECT_EQ(parsed({"--model_path=dir"}).text("model"), "dir");
    EXPECT_EQ(parsed({"--clip_start", "1.5"}).number("clip-start"), 1.5);
    EXPECT_EQ(parsed({"-n", "2k"}).integer("max-tokens"), 2000);
    EXPECT_EQ(parsed({"--max-new-tokens=2Ki"}).integer("max-tokens"), 2048);
    EXPECT_EQ(parsed({}).integer("max-tokens"), 512);
    EXPECT(parsed({"--num-frames", "[16,16, 32,16]"}).integers("num-frames") == std::vector<int64_t>{16, 16, 32, 16});
    EXPECT(parsed({"--json"}).on("json"));
    EXPECT_FALSE(parsed({"--no-json"}).on("json"));
    EXPECT_FALSE(parsed({"--json=false"}).on("json"));
    EXPECT_EQ(parsed({"--prompt", "a", "-p", "b"}).texts("prompt").size(), 2);
    EXPECT_EQ(parsed({"--", "-x"}).positionals().at(0), "-x");
}

TEST_CASE("flags: mistakes are usage errors that help") {
    auto message = [](std::vector<const char*> args) -> std::string {
        try { parsed(args); } catch (const Error& e) { EXPECT(e.code == Exit::usage); return e.what(); }
        return "";
    };
    EXPECT_EQ(message({"--vidoe", "x"}), "unknown flag --vidoe; did you mean --video?");
    EXPECT_EQ(message({"--max-tokens", "many"}), "--max-tokens takes a whole number, not 'many'");
    EXPECT_EQ(message({"--max-tokens", "1.5"}), "--max-tokens takes a whole number, not '1.5'");
    EXPECT_EQ(message({"--clip-start", "nan"}), "--clip-start takes a number, not 'nan'");
    EXPECT_EQ(message({"--video"}), "--video needs a value: FILE");
    EXPECT_EQ(message({"--video", "a", "--video", "b"}), "--video is given twice");
    EXPECT_NE(message({"one", "two"}), "");
    EXPECT_NE(message({"-z"}), "");
}

TEST_CASE("flags: the environment stands in for the command line") {
    setenv("MERV_ARG_MAX_TOKENS", "9", 1);
    EXPECT_EQ(parsed({}).integer("max-tokens"), 9);
    EXPECT_EQ(parsed({"-n", "3"}).integer("max-tokens"), 3);
    unsetenv("MERV_ARG_MAX_TOKENS");
}

TEST_CASE("text for terminals holds no control characters and is valid UTF-8") {
    EXPECT_EQ(printable("a\x1b[31mb\n"), "a\xEF\xBF\xBD[31mb\n");
    EXPECT_EQ(printable("\xc2\x9b"), "\xEF\xBF\xBD");               // C1: one-byte escape introducer
    EXPECT_EQ(printable("\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80"), "\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80");
    EXPECT_EQ(valid_utf8("\xed\xa0\x80"), "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD");    // a surrogate is not UTF-8
    EXPECT_EQ(valid_utf8("\xc0\xaf"), "\xEF\xBF\xBD\xEF\xBF\xBD");  // nor is an overlong form
}
