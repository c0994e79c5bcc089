// The self-test of a card, on the emulated runtime: a healthy device passes, a wrong kernel is noticed and replaced, and what is known is remembered.
#include "kernels/cuda/host/self_test.h"
#include <fstream>
#include <set>
#include "bench/device.h"
#include "core/cuda.h"
#include "kernels/attention.h"
#include "kernels/elementwise.h"
#include "kernels/linear.h"
#include "kernels/norm.h"
#include "kernels/rows.h"
#include "tests/compare.h"
#include "tests/host/cuda.h"
#include "tests/run_program.h"

using namespace merv;
using namespace merv::test;
using kernels::Question;
using Result = Verdict::Result;

namespace {

struct Restore {                                // what a self-test replaced is a process's
    ~Restore() {
        kernels::special_ways = {};
        kernels::anything_replaced = false;
        for (const Question& q : kernels::known_answers()) *q.replaced = false;
    }
};
// Of one op, those whose way holds one of these words: large ones take long, checked
std::vector<Question> only(const std::string& op, const kernels::Spoil& spoil = {}, const std::vector<std::string>& ways = {""}) {
    std::vector<Question> some;
    for (const Question& q : kernels::known_answers(spoil))
        if (q.op == op && std::any_of(ways.begin(), ways.end(), [&](const std::string& w) { return contains(q.way, w); })) some.push_back(q);
    return some;
}
const std::vector<std::string> kSmall = {"frames", "77 keys", "odd sides"};
void spoil_one(const Tensor& t) {               // the last element
    Tensor host = t.to(Device::cpu);
    std::vector<float> v = to_floats(host);
    v.back() += 1 + std::fabs(v.back());
    t.copy_from(from_floats(v, t.shape(), t.dtype()));
}

}

TEST_CASE("self-test: a healthy device answers every question, each op's") {
    open_cuda(0);
    const Restore restore;
    std::set<std::string> ops;
    double worst = 0;
    const std::vector<Verdict> all = self_test("");
    for (const Verdict& v : all) {
        EXPECT_MESSAGE((v.result == Result::right), v.op, " (", v.way, "): ", v.error, ", limit ", v.limit);
        ops.insert(v.op);
        if (v.limit > 0) worst = std::max(worst, v.error / v.limit);
    }
    EXPECT_EQ(ops.size(), 37);                  // the argument structs of kernels/*.h that run on a GPU
    EXPECT_FALSE(kernels::anything_replaced);
    std::printf("  %zu questions, %zu ops, worst at %.0f%% of its limit\n", all.size(), ops.size(), 100 * worst);
}

TEST_CASE("self-test: one wrong element of any output of any op is noticed, and the op runs on the host") {
    open_cuda(0);
    const Restore restore;
    std::set<std::string> asked, noticed;
    std::vector<Question> one;                  // of each op, the first
    for (const Question& q : kernels::known_answers([](const std::string&, const std::string&, const Tensor& t) { spoil_one(t); })) if (asked.insert(q.op).second) one.push_back(q);
    for (const Verdict& v : self_test("", one)) if (v.result == Result::wrong) noticed.insert(v.op);
    for (const std::string& op : asked) EXPECT_MESSAGE(noticed.count(op), op);
    EXPECT(kernels::anything_replaced);
    EXPECT_FALSE(cuda().graph());               // no graphs: an op on the host copies
    // every op on the host has the CPU backend's bits
    const OnDevice card(Device::cuda);
    const Tensor host_x = from_floats(std::vector<float>{1, 2, 3, 4, 5, 6}, {2, 3}).to(Device::cpu), x = host_x.to(Device::cuda), y({2, 3}), w = from_floats(std::vector<float>{1, 2, 3}, {3}), b = zeros({3});
    kernels::layernorm({.y = y, .x = x, .w = w, .b = b});
    Tensor want({2, 3}, DType::f32, Device::cpu);
    {
        const OnDevice host(Device::cpu);
        kernels::layernorm({.y = want, .x = host_x, .w = w.to(Device::cpu), .b = b.to(Device::cpu)});
    }
    expect_same_bits(y.to(Device::cpu), want);
    // in place, and parts of one allocation
    const Tensor rows = from_floats(std::vector<float>{1, 2, 3, 4, 5, 6}, {3, 2});
    kernels::scatter_rows({.y = rows, .x = rows.slice(0, 1), .index = from_ints(std::vector<int32_t>{2}).to(Device::cuda)});
    EXPECT(to_floats(rows.to(Device::cpu)) == std::vector<float>{1, 2, 3, 4, 1, 2});
}

TEST_CASE("self-test: where a special way fails the plain kernels are taken, and stay on the card") {
    open_cuda(0);
    const Restore restore;
    auto broken = [](const char* op, bool* special) {
        const auto all = self_test("", only(op, [special](const std::string&, const std::string&, const Tensor& t) { if (*special) spoil_one(t); }, kSmall));
        EXPECT_FALSE(*special);
        EXPECT(std::any_of(all.begin(), all.end(), [](const Verdict& v) { return v.result == Result::by_another_way; }));
        for (const Verdict& v : all) EXPECT_MESSAGE((v.result == Result::right || v.result == Result::by_another_way), v.op, " ", v.way);
    };
    broken("AttentionFwd", &kernels::special_ways.attention);
    broken("AttentionBwd", &(kernels::special_ways.attention = true));
    EXPECT_FALSE(kernels::replaced<kernels::AttentionFwd>());
    // without cuBLASLt and without tensor cores in attention everything still has its answers
    kernels::special_ways = {.cublaslt = false, .attention = false};
    for (const char* op : {"LinearFwd", "LinearInputBwd", "LinearWeightBwd", "AttentionFwd", "AttentionBwd"})
        for (const Verdict& v : self_test("", only(op, {}, kSmall))) EXPECT_MESSAGE((v.result == Result::right), v.op, " ", v.way, ": ", v.error);
}

TEST_CASE("self-test: verdicts are remembered, and an op that ended the program is not asked again") {
    open_cuda(0);
    const TempDir dir;
    const std::string record = dir / "record";
    int asked = 0;
    auto counted = only("Add", [&](const std::string&, const std::string&, const Tensor&) { asked++; });
    const std::string first_way = counted[0].way;
    {
        const Restore restore;
        self_test(record, counted);
        EXPECT_EQ(asked, int(counted.size()));
        EXPECT_SAYS(read_file(record), "Add\t" + first_way + "\tasked\nAdd\t" + first_way + "\tright\n");
        EXPECT(read_file(record).ends_with("complete\n"));
    }
    write_file(record, "Add\t" + first_way + "\tasked\n");         // and then nothing
    asked = 0;
    const Restore restore;
    const auto verdicts = self_test(record, counted);
    EXPECT((verdicts[0].result == Result::crashed));
    EXPECT_EQ(asked, int(counted.size()) - 1);
    EXPECT(kernels::replaced<kernels::Add>());
}

TEST_CASE("self-test: once per device and build; a damaged or unwritable record asks again; MERV_SELF_TEST says how") {
    open_cuda(0);
    const TempDir dir;
    const Restore restore;
    const auto adds = only("Add");
    setenv("XDG_CACHE_HOME", dir.path.c_str(), 1);
    auto files = [&] {
        std::vector<std::string> all;
        std::error_code none;
        for (const auto& f : std::filesystem::directory_iterator(dir.path / "merv", none)) all.push_back(f.path().string());
        return all;
    };
    test_device("emulated GPU", "uuid", 13000, adds); // emulated: only when asked
    EXPECT(files().empty());
    setenv("MERV_SELF_TEST", "0", 1);
    test_device("card", "uuid", 13000, adds);
    EXPECT(files().empty());
    unsetenv("MERV_SELF_TEST");
    // a complete record that says an op was wrong is believed, without asking
    test_device("card", "uuid", 13000, adds);
    REQUIRE_EQ(files().size(), 1);
    std::string text = read_file(files()[0]);
    EXPECT(text.ends_with("complete\n"));
    const std::string line = "Add\tf32, 64 columns\tright\n";
    REQUIRE(text.find(line) != text.npos);
    text.replace(text.find(line), line.size(), "Add\tf32, 64 columns\twrong\n");
    write_file(files()[0], text);
    test_device("card", "uuid", 13000, adds);
    EXPECT(kernels::replaced<kernels::Add>());
    EXPECT_EQ(read_file(files()[0]), text);
    unsetenv("XDG_CACHE_HOME");
}

TEST_CASE("wrappers of kernels/gpu.h: the emulator's fast mode and the device give the same bytes") {
    open_cuda(0);
    const OnDevice card(Device::cuda);
    EXPECT_EQ(bench::wrappers_report("md", 2), 0);
}
