#include "tests/harness.h"
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <omp.h>
#include "core/rng.h"
#include "tests/test.h"

namespace merv::test {
namespace {

// Compared per setting; small ones draw inputs again, lest plain f32 be lucky: the elements of a row share their fate.
constexpr int64_t kRows = 128, kElements = 1024;

// MERV_TEST_SEED=N draws other inputs: a limit that is right is right for all of them.
uint64_t seed() {
    static const char* text = std::getenv("MERV_TEST_SEED");
    return text ? std::strtoull(text, nullptr, 10) : 0;
}

double exactly(double v) { return v; }
double to_f32(double v) { return double(float(v)); }

double ulp(double v) {                          // distance from |v| to the next f32
    const float f = float(std::fabs(v));
    return double(std::nextafter(f, std::numeric_limits<float>::infinity())) - double(f);
}
double distance(double a, double b) {           // infinite where a NaN is, or only one infinity
    const double d = a == b ? 0 : std::fabs(a - b);
    return d != d ? INFINITY : d;
}

Tensor make(const Input& in, const std::string& purpose, bool bf16_parameters) {
    switch (in.kind) {
        case Input::Kind::absent: return {};
        case Input::Kind::activation: return normal(in.shape, purpose, in.mean, in.spread);
        case Input::Kind::parameter: return normal(in.shape, purpose, in.mean, in.spread, bf16_parameters ? DType::bf16 : DType::f32);
        case Input::Kind::pixels: break;
    }
    Tensor t(in.shape, DType::u8);
    const Rng rng(seed(), purpose);
    for (int64_t i = 0; i < t.numel(); i++) t.data<uint8_t>()[i] = uint8_t(rng.bits(uint64_t(i))[0] >> 24);
    return t;
}
Numbers numbers(const Tensor& t) {
    if (!t) return {};
    const std::vector<float> v = to_floats(t);
    return {v.begin(), v.end()};
}

struct Draw { Tensors x; std::vector<Numbers> values; };
Draw draw(const Setting& s, bool bf16_parameters, int nth) {
    Draw d;
    for (size_t i = 0; i < s.inputs.size(); i++) {
        d.x.push_back(make(s.inputs[i], concat("draw ", nth, " of input ", i, " of ", s.name), bf16_parameters));
        d.values.push_back(numbers(d.x[i]));
    }
    return d;
}

void run(const std::string& name, const Setting& s, bool bf16_parameters, Verdict& verdict) {
    verdict.settings++;
    double error = 0, naive_error = 0, largest = 0;
    std::string worst;
    int64_t rows = 0, elements = 0;
    for (int n = 0; n < 64 && (rows < kRows || elements < kElements); n++) {
        const auto [x, values] = draw(s, bf16_parameters, n);
        const Tensor y = s.op(x);
        if (n == 0) {
            const Threads one(1);
            Tensors elsewhere;
            for (const Tensor& t : x) elsewhere.push_back(t ? amid_nan(t) : Tensor());
            if (!same_bits(y, s.op(elsewhere)))
                verdict.complaints.push_back(name + ": its bits depend on what surrounds the inputs, their alignment or the number of threads");
        }
        const Numbers got = numbers(y), oracle = s.formula(values, exactly), naive = s.formula(values, to_f32);
        if (got.size() != oracle.size()) {
            verdict.complaints.push_back(concat(name, ": ", y, " has ", got.size(), " elements, its formula ", oracle.size()));
            return;
        }
        for (size_t i = 0; i < got.size(); i++) {
            const double e = distance(got[i], oracle[i]);
            naive_error = std::max(naive_error, distance(naive[i], oracle[i]));
            if (std::isfinite(oracle[i])) largest = std::max(largest, std::fabs(oracle[i]));
            if (e > error)
                error = e, worst = concat("element ", i, " of ", y, " is ", got[i], ", the formula gives ", oracle[i], " and ", naive[i], " in plain f32");
        }
        rows += y.rows(), elements += y.numel();
    }
    const double limit = naive_error == 0 ? 0 : 2 * naive_error + ulp(largest);
    if (std::getenv("MERV_TEST_VERBOSE")) std::printf("    %s: error %.3g limit %.3g\n", name.c_str(), error, limit);
    if (!std::isfinite(limit)) verdict.complaints.push_back(name + ": the formula itself gives NaN or overflows");
    if (!(error <= limit)) verdict.complaints.push_back(concat(name, ": ", worst, "; error ", error, ", limit ", limit));
    if (limit > 0 && (verdict.where.empty() || error * verdict.limit > verdict.error * limit))
        verdict.error = error, verdict.limit = limit, verdict.where = name;
}

}

Verdict judge(const std::string& op, const std::vector<Setting>& settings) {
    Verdict verdict;
    for (const Setting& s : settings) {
        bool has_parameters = false;
        for (const Input& in : s.inputs) has_parameters |= in.kind == Input::Kind::parameter;
        run(concat(op, " ", s.name), s, false, verdict);
        if (has_parameters) run(concat(op, " ", s.name, ", bf16"), s, true, verdict);
    }
    if (verdict.limit > 10 * verdict.error)
        verdict.complaints.push_back(concat(op, ": too loose; the limit is ", verdict.limit / verdict.error, " times the error even at ", verdict.where));
    return verdict;
}

void check_op(const std::string& op, const std::vector<Setting>& settings) {
    const Verdict v = judge(op, settings);
    if (v.where.empty()) std::printf("  %-16s %3d settings, exact\n", op.c_str(), v.settings);
    else std::printf("  %-16s %3d settings, worst error %.3g limit %.3g (%.0f%%) at%s\n", op.c_str(), v.settings,
                     v.error, v.limit, 100 * v.error / v.limit, v.where.c_str() + op.size());
    for (const std::string& c : v.complaints) FAIL_CHECK(c);
    EXPECT(v.complaints.empty());               // so that a case that passes has asserted something
}

Tensor normal(Shape shape, std::string_view purpose, double mean, double spread, DType dtype) {
    const Rng rng(seed(), purpose);
    std::vector<float> v(size_t(shape.numel()));
    for (size_t i = 0; i < v.size(); i++) v[i] = float(mean + spread * rng.normal(i));
    return from_floats(v, shape, dtype);
}

bool same_bits(const Tensor& a, const Tensor& b) {
    return a.shape() == b.shape() && a.dtype() == b.dtype() && (a.bytes() == 0 || std::memcmp(a.raw(), b.raw(), a.bytes()) == 0);
}

Tensor amid_nan(const Tensor& t) {
    constexpr int64_t kMargin = 67;             // odd, and wider than any vector
    Tensor wide({t.numel() + 2 * kMargin}, t.dtype());
    std::memset(wide.raw(), 0xff, wide.bytes());        // NaN in f32 and bf16
    Tensor copy = wide.slice(kMargin, kMargin + t.numel()).reshape(t.shape());
    copy.copy_from(t);
    return copy;
}

Threads::Threads(int n) : saved_(omp_get_max_threads()) { omp_set_num_threads(n); }
Threads::~Threads() { omp_set_num_threads(saved_); }

TEST_CASE("harness: finds what it should") {
    auto complaint = [](auto op, auto formula) {        // about an op of one row of floats
        const Setting s{"7", {input({1, 7})}, [=](const Tensors& x) {
            const Tensor y({1, 7});
            for (int i = 0; i < 7; i++) y.data<float>()[i] = op(x[0].data<float>(), i);
            return y;
        }, [=](const std::vector<Numbers>& x, Round q) {
            Numbers y;
            for (double v : x[0]) y.push_back(formula(v, q));
            return y;
        }};
        const Verdict v = judge("op", {s});
        return v.complaints.empty() ? "" : v.complaints[0];
    };
    auto says = [](const std::string& complaint, const char* words) {
        EXPECT_MESSAGE(complaint.find(words) != std::string::npos, "'", complaint, "' should say ", words); };
    auto third = [](double v, Round q) { return q(v / 3); };
    auto same = [](double v, Round) { return v; };
    EXPECT_EQ(complaint([](const float* x, int i) { return x[i] / 3; }, third), "");
    EXPECT_EQ(complaint([](const float* x, int i) { return x[i]; }, same), "");
    says(complaint([](const float* x, int i) { return x[i] / 3 * (1 + 0x1p-20f); }, third), "error");
    says(complaint([](const float* x, int i) { return i == 6 ? x[5] / 3 : x[i] / 3; }, third), "element 6 of f32(1, 7)");
    says(complaint([](const float* x, int i) { return i == 3 ? NAN : x[i] / 3; }, third), "is nan, the formula gives");
    says(complaint([](const float* x, int i) { return i == 3 ? INFINITY : x[i] / 3; }, third), "is inf, the formula gives");
    says(complaint([](const float* x, int i) { return std::nextafter(x[i], 9.0f); }, same), "limit 0");       // what should be exact is off by one ulp
    says(complaint([](const float* x, int i) { return x[i]; }, [](double v, Round q) { return q(q(v + 100) - 100); }), "too loose");
    says(complaint([](const float* x, int i) { return x[i] / 3; }, [](double v, Round) { return std::sqrt(-1 - v * v); }), "the formula itself");
    says(complaint([](const float* x, int i) { return reinterpret_cast<uintptr_t>(x) % 64 ? x[i] : -x[i]; }, same), "its bits depend");
    says(complaint([](const float* x, int i) { return omp_get_max_threads() == 1 ? x[i] : -x[i]; }, same), "its bits depend");
}

}
