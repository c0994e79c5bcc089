#include "tests/harness.h"
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <omp.h>
#include "core/cuda.h"
#include "core/rng.h"
#include "kernels/device.h"
#include "kernels/emu/emulator.h"
#include "nn/functional.h"
#include "tests/runtime_reports.h"
#include "tests/test.h"

namespace merv::test {
namespace {

// Compared per setting; small ones draw inputs again, lest plain f32 be lucky: the elements of a row share their fate.
constexpr int64_t kDraws = 64, kRows = 128, kElements = 1024;
constexpr int64_t kSums = 256;                  // elements of a gradient: those of parameters are sums, and few
constexpr int64_t kRecorded = 1'500'000, kPortable = 150'000, kEmulated = 20'000, kSteps = 500'000;     // of a formula; of all its draws
constexpr int64_t kInDoubt = 32;                // times as many draws where the first leave doubt; then all of them count

// MERV_TEST_SEED=N draws other inputs: a limit that is right is right for all of them.
uint64_t seed() {
    static const char* text = std::getenv("MERV_TEST_SEED");
    return text ? std::strtoull(text, nullptr, 10) : 0;
}

double ulp(double v, DType t) {                 // distance from |v| to the next number of the type
    const float f = float(std::fabs(v)), unit = std::nextafter(f, std::numeric_limits<float>::infinity()) - f;
    return double(unit) * (t == DType::bf16 ? 0x1p16 : 1);
}
double distance(double a, double b) {           // infinite where a NaN is, or only one infinity
    const double d = a == b ? 0 : std::fabs(a - b);
    return d != d ? INFINITY : d;
}

struct Types { DType activations, parameters; };
bool has(const Setting& s, Input::Kind kind) { return std::any_of(s.inputs.begin(), s.inputs.end(), [&](const Input& in) { return in.kind == kind; }); }

Tensor make(const Input& in, const std::string& purpose, Types types) {
    using Kind = Input::Kind;
    if (in.kind == Kind::absent) return {};
    if (in.kind != Kind::pixels)
        return normal(in.shape, purpose, in.mean, in.spread, in.kind == Kind::activation ? types.activations : in.kind == Kind::parameter ? types.parameters : DType::f32);
    Tensor t(in.shape, DType::u8);
    const Rng rng(seed(), purpose);
    for (int64_t i = 0; i < t.numel(); i++) t.data<uint8_t>()[i] = uint8_t(rng.bits(uint64_t(i))[0] >> 24);
    return t;
}
std::vector<double> doubles(const Tensor& t) {
    if (!t) return {};
    const std::vector<float> v = to_floats(t);
    return {v.begin(), v.end()};
}
// Copies at odd addresses amid NaN; on a GPU, whose tensors begin at multiples of 16 bytes, at such
Tensors moved(Device d, const Tensors& x) {
    Tensors elsewhere;
    for (const Tensor& t : x) elsewhere.push_back(t ? amid_nan(t, d) : Tensor());
    return elsewhere;
}
struct Reordered {                              // the emulator's schedule, in scope
    Reordered() { emu::set_schedule(emu::Order::seeded, 7); }
    ~Reordered() { emu::set_schedule(emu::Order::fifo); }
};

// Where an op runs: the CPU's instruction sets, and the GPU kernels in the emulator's checked mode; or, in a program with the CUDA
// backend, the widest of the former and cuda:0, a card or the emulated runtime, whose reports count as failures.
struct Backend {
    std::string name;
    Device device;
    Isa isa;
    bool fused() const { return device != Device::cpu || isa != Isa::portable; }
};
std::vector<Backend> backends() {
    std::vector<Backend> all;
    if (has_cuda_backend()) {
        open_cuda(0);
        const Isa widest = kernels::cpu::available().back();
        return {{kernels::cpu::name_of(widest), Device::cpu, widest}, {"cuda", Device::cuda, widest}};
    }
    for (Isa i : kernels::cpu::available()) all.push_back({kernels::cpu::name_of(i), Device::cpu, i});
    all.push_back({"emulator", Device::emu, all.back().isa});
    return all;
}
class On {                                      // a backend, in scope
  public:
    explicit On(const Backend& b) : isa_(b.isa), device_(b.device) { kernels::use_checks(true); }

  private:
    Using isa_;
    OnDevice device_;
};
Tensors to(Device d, const Tensors& x) {
    Tensors there;
    for (const Tensor& t : x) there.push_back(t.to(d));
    return there;
}
Derived derive_on(Device d, const Setting& s, const Tensors& x, const Tensor& dy, const std::vector<bool>& wanted, int times = 1) {
    Derived r = derive(s.op, to(d, x), dy.to(d), wanted, times);
    r.y = r.y.to(Device::cpu), r.gradients = to(Device::cpu, r.gradients);
    return r;
}

// How far one tensor, y or the gradient of an input, is from the oracle over the draws of a setting: the op's, and plain
// arithmetic's without and with fused multiply-adds.
struct Gauge {
    std::string what;
    explicit Gauge(std::string name) : what(std::move(name)) {}
    double error[2] = {}, naive[2] = {}, largest = 0, unit = 0;
    std::string worst[2];

    void expect(const std::vector<double>& oracle, const std::vector<double>& plain, bool fused, DType type) {
        for (size_t i = 0; i < oracle.size(); i++) {
            naive[fused] = std::max(naive[fused], distance(to_type(plain[i], type), oracle[i]));
            if (std::isfinite(oracle[i])) largest = std::max(largest, std::fabs(oracle[i]));
        }
        unit = ulp(largest, type);
    }
    void meet(const Tensor& t, const std::vector<double>& oracle, const std::vector<double>& plain, bool fused, const std::string& backend, double factor = 1) {
        const std::vector<double> got = doubles(t);
        for (size_t i = 0; i < got.size(); i++)
            if (const double e = distance(got[i] / factor, oracle[i]); e > error[fused])
                error[fused] = e, worst[fused] = concat("element ", i, " of ", what, " ", t, " is ", got[i] / factor, ", the formula gives ", oracle[i], " and ", plain[i],
                                                        " in plain f32 (", backend, factor == 1 ? "" : ", half of what two passes add up to", ")");
    }
    double limit(bool fused) const { return naive[fused] == 0 ? 0 : 2 * naive[fused] + unit; }
    bool doubtful() const { return error[0] > limit(0) || error[1] > limit(1); }
};

std::vector<double> values_of(const Numbers& numbers) {
    std::vector<double> v;
    for (const Real& r : numbers) v.push_back(r.v);
    return v;
}
// The gradient of each wanted input, from the formula
std::vector<std::vector<double>> slopes_of(const Setting& s, std::vector<Numbers> x, const std::vector<double>& dy, const std::vector<bool>& wanted, const Round& q) {
    Recording recording(q.how);
    for (size_t i = 0; i < x.size(); i++) if (wanted[i]) for (Real& v : x[i]) v = recording.variable(v.v);
    const std::vector<double> adjoint = recording.adjoints(s.formula(x, q), dy);
    std::vector<std::vector<double>> slopes(x.size());
    for (size_t i = 0; i < x.size(); i++) if (wanted[i]) for (const Real& v : x[i]) slopes[i].push_back(adjoint[size_t(v.node)]);
    return slopes;
}

void run(const std::string& name, const Setting& s, Types types, Verdict& verdict) {
    verdict.settings++;
    const int reports = runtime_reports();
    auto complain = [&](const auto&... words) { verdict.complaints.push_back(concat(name, ": ", words...)); };
    const std::vector<Backend> everywhere = backends();
    std::vector<bool> wanted;
    std::vector<Gauge> slopes;
    for (const Input& in : s.inputs) {
        wanted.push_back(s.gradient == Setting::Gradient::checked && (in.kind == Input::Kind::activation || in.kind == Input::Kind::parameter || in.kind == Input::Kind::weights));
        slopes.emplace_back(concat("the gradient of input ", slopes.size()));
    }
    const std::vector<bool> none(wanted.size(), false);
    Gauge value("y");
    bool portable = true, differentiated = wanted != none;
    int64_t rows = 0, elements = 0, sums = 0, steps = 0, n_steps = 0;
    DType type = DType::f32;
    auto drawn = [&](int64_t n) { return n >= kDraws || steps >= kSteps || (rows >= kRows && elements >= kElements && (!differentiated || sums >= kSums)); };
    auto doubtful = [&] { return value.doubtful() || std::any_of(slopes.begin(), slopes.end(), [](const Gauge& g) { return g.doubtful(); }); };
    bool doubt = false;                         // once there, it is settled by the full number, never by the first lucky draw
    auto enough = [&](int64_t n) {
        if (n == 0 || !drawn(n)) return false;
        doubt |= doubtful();
        return !doubt || n >= kInDoubt * kDraws || steps >= kInDoubt * kSteps;
    };
    for (int n = 0; !enough(n); n++) {
        Tensors x;
        std::vector<Numbers> numbers;
        for (size_t i = 0; i < s.inputs.size(); i++) {
            x.push_back(make(s.inputs[i], concat("draw ", n, " of input ", i, " of ", s.name), types));
            const std::vector<double> v = doubles(x[i]);
            numbers.emplace_back(v.begin(), v.end());
        }
        Round q{Arithmetic::exact, types.activations, types.parameters};
        const int64_t before = Recording::operations();
        const std::vector<double> oracle = values_of(s.formula(numbers, q));
        if (n == 0) {
            n_steps = Recording::operations() - before;
            portable = n_steps <= kPortable || kernels::cpu::available().size() == 1;
            differentiated = differentiated && n_steps <= kRecorded;
            verdict.gradients += differentiated;
        }
        steps += Recording::operations() - before;
        // Per arithmetic, portable's and the others': what plain programs compute
        std::vector<double> plain[2];
        std::vector<std::vector<double>> slope, plain_slope[2];
        Tensor dy;
        for (const Backend& backend : everywhere) {
            const bool fused = backend.fused(), emulated = backend.device != Device::cpu;
            if ((!fused && !portable) || (emulated && (!s.on_gpu || n > 0 || n_steps > kEmulated))) continue;
            const On on(backend);
            const Tensor y = s.op(to(backend.device, x)).to(Device::cpu);
            verdict.emulated += emulated;
            if (n == 0 && !same_bits(y, [&] { const Threads one(1); const Reordered other; return s.op(moved(backend.device, x)).to(Device::cpu); }()))
                complain("its bits depend on what surrounds the inputs, their alignment, the number of threads or the schedule (", backend.name, ")");
            if (size_t(y.numel()) != oracle.size()) return complain(y, " has ", y.numel(), " elements, its formula ", oracle.size());
            if (!dy) {
                type = y.dtype();
                rows += y.rows(), elements += y.numel();
                int64_t fewest = kSums;
                for (size_t i = 0; i < x.size(); i++) if (wanted[i]) fewest = std::min(fewest, x[i].numel());
                sums += fewest;
                if (has(s, Input::Kind::activation) && !s.own_type && type != types.activations) return complain(y, " among activations in ", name_of(types.activations));
                dy = normal(y.shape(), concat("draw ", n, " of dy of ", s.name), 0, 1, type);
                if (differentiated) slope = slopes_of(s, numbers, doubles(dy), wanted, q);
            }
            if (plain[fused].empty()) {
                q.how = fused ? Arithmetic::f32_fused : Arithmetic::f32;
                plain[fused] = values_of(s.formula(numbers, q));
                value.expect(oracle, plain[fused], fused, type);
                q.backward = true;
                if (differentiated) plain_slope[fused] = slopes_of(s, numbers, doubles(dy), wanted, q);
                q.backward = false;
            }
            value.meet(y, oracle, plain[fused], fused, backend.name);
            if (!differentiated) continue;

            const Derived all = derive_on(backend.device, s, x, dy, wanted);
            for (size_t i = 0; i < x.size(); i++) {
                if (!wanted[i]) continue;
                const DType its = s.inputs[i].kind == Input::Kind::activation ? types.activations : DType::f32;
                const Tensor& g = all.gradients[i];
                if (!g) return complain("input ", i, " gets no gradient (", backend.name, ")");
                if (g.shape() != x[i].shape() || g.dtype() != its) return complain("the gradient of input ", i, ", ", x[i], ", is ", g, " (", backend.name, ")");
                slopes[i].expect(slope[i], plain_slope[fused][i], fused, its);
                slopes[i].meet(g, slope[i], plain_slope[fused][i], fused, backend.name);
            }
            if (n > 0) continue;
            auto differs = [&](const Derived& other, const char* when) {
                for (size_t i = 0; i < x.size(); i++)
                    if (other.gradients[i] && !same_bits(other.gradients[i], all.gradients[i])) complain("the gradient of input ", i, " has other bits ", when, " (", backend.name, ")");
                if (!same_bits(other.y, y) && (!emulated || s.one_forward || !same_bits(other.y, all.y))) complain("has other bits ", when, " (", backend.name, ")");
            };
            differs(all, "when a gradient is wanted");
            { const Threads one(1); const Reordered other; differs(derive_on(backend.device, s, moved(backend.device, x), moved(backend.device, {dy})[0], wanted), "elsewhere, amid NaN, on one thread, or in another order"); }
            for (size_t i = 0; i < x.size(); i++) {
                if (!wanted[i] || (emulated && n_steps > kEmulated / 10)) continue;
                std::vector<bool> alone = none, others = wanted;
                alone[i] = true, others[i] = false;
                for (const auto& some : {alone, others}) {
                    const Derived d = derive_on(backend.device, s, x, dy, some);
                    differs(d, "when some inputs want no gradient");
                    for (size_t j = 0; j < x.size(); j++)
                        if (bool(d.gradients[j]) != some[j]) complain("input ", j, some[j] ? " gets no gradient where " : " gets a gradient where ", i, some == alone ? " alone wants one" : " wants none", " (", backend.name, ")");
                }
            }
            const Derived twice = derive_on(backend.device, s, x, dy, wanted, 2);
            for (size_t i = 0; i < x.size(); i++)
                if (wanted[i]) slopes[i].meet(twice.gradients[i], slope[i], plain_slope[fused][i], fused, backend.name, 2);
        }
    }
    auto settle = [&](const Gauge& g, bool fused, Nearest& nearest, const std::string& where) {
        const double error = g.error[fused], limit = g.limit(fused);
        if (std::getenv("MERV_TEST_VERBOSE") && (limit > 0 || error > 0)) std::printf("    %s, %s%s: error %.3g limit %.3g\n", name.c_str(), g.what.c_str(), fused ? "" : " (portable)", error, limit);
        if (!std::isfinite(limit)) complain(g.what, ": the formula itself gives NaN or overflows");
        if (!(error <= limit)) complain(g.worst[fused], "; error ", error, ", limit ", limit);
        if (limit > 0 && (nearest.where.empty() || error * nearest.limit > nearest.error * limit)) nearest = {error, limit, where + (fused ? "" : ", portable")};
    };
    if (runtime_reports() > reports) complain("the emulated CUDA runtime reported it (stderr has the reports)");
    const bool half = type == DType::bf16;
    for (bool fused : {false, true}) {
        settle(value, fused, verdict.values[half], name);
        for (size_t i = 0; i < slopes.size(); i++) settle(slopes[i], fused, verdict.slopes[half], concat(name, ", input ", i));
    }
}

}

Derived derive(const std::function<Tensor(const Tensors&)>& op, Tensors x, const Tensor& dy, const std::vector<bool>& wanted, int times) {
    for (size_t i = 0; i < x.size(); i++) if (wanted[i]) x[i].set_needs_grad();
    Tape::current().clear();                    // an op that threw may have left something
    Derived d;
    for (int i = 0; i < times; i++) {
        Tensor y = op(x);
        d.y = y.detach();
        if (y.needs_grad() && y.grad()) nn::add_gradient(y.slot(), dy);      // the op gave its input back: there is nothing to go through
        else if (y.needs_grad()) Tape::current().backward(y, dy);
    }
    for (const Tensor& t : x) d.gradients.push_back(t ? t.grad() : Tensor());
    return d;
}

Verdict judge(const std::string& op, const std::vector<Setting>& settings) {
    Verdict verdict;
    verdict.isas = int(kernels::cpu::available().size());
    bool has_gradient = false;
    for (const Setting& s : settings) {
        has_gradient |= s.gradient == Setting::Gradient::checked;
        for (DType activations : {DType::f32, DType::bf16})
            for (DType parameters : {DType::f32, DType::bf16}) {
                const bool a = activations == DType::bf16, p = parameters == DType::bf16;
                if ((a && !has(s, Input::Kind::activation)) || (p && !has(s, Input::Kind::parameter))) continue;
                run(concat(op, " ", s.name, a && p ? ", bf16" : a ? ", bf16 activations" : p ? ", bf16 parameters" : ""), s, {activations, parameters}, verdict);
            }
    }
    if (has_gradient && verdict.gradients == 0) verdict.complaints.push_back(op + ": no setting has its gradient checked; smaller ones are needed");
    auto tight = [&](const Nearest& n, const char* of) {
        if (n.limit > 10 * n.error)
            verdict.complaints.push_back(concat(op, ": too loose; the limit of ", of, " is ", n.limit / n.error, " times the error even at ", n.where));
    };
    for (bool half : {false, true}) tight(verdict.values[half], "y"), tight(verdict.slopes[half], "the gradients");
    return verdict;
}

void check_op(const std::string& op, const std::vector<Setting>& settings) {
    const Verdict v = judge(op, settings);
    auto nearest = [&](const Nearest (&n)[2]) {
        std::string text;
        for (bool half : {false, true}) {
            if (n[half].where.empty()) continue;
            char numbers[64];
            std::snprintf(numbers, sizeof numbers, "%.2g of %.2g (%.0f%%)", n[half].error, n[half].limit, 100 * n[half].error / n[half].limit);
            text += concat(text.empty() ? " " : ", ", half ? "bf16 " : "", numbers, " at", n[half].where.substr(op.size()));
        }
        return text.empty() ? " exact" : text;
    };
    std::printf("  %-16s %4d settings on %d instruction sets, %d emulated:%s\n", op.c_str(), v.settings, v.isas, v.emulated, nearest(v.values).c_str());
    if (v.gradients) std::printf("  %-16s %4d gradients:%s\n", "", v.gradients, nearest(v.slopes).c_str());
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

Tensor amid_nan(const Tensor& t, Device d) {
    const int64_t kMargin = d == Device::cpu ? 67 : 64;     // odd, and wider than any vector
    Tensor wide({t.numel() + 2 * kMargin}, t.dtype(), d);
    if (d == Device::cuda) cuda().fill(wide.raw(), 0xff, wide.bytes());     // NaN in f32 and bf16
    else std::memset(wide.raw(), 0xff, wide.bytes());
    Tensor copy = wide.slice(kMargin, kMargin + t.numel()).reshape(t.shape());
    copy.copy_from(t);
    return copy;
}

Threads::Threads(int n) : saved_(omp_get_max_threads()) { omp_set_num_threads(n); }
Threads::~Threads() { omp_set_num_threads(saved_); }

namespace {

void expect_says(const std::string& complaint, const char* words) {
    EXPECT_MESSAGE(complaint.find(words) != std::string::npos, "'", complaint, "' should say ", words);
}

}

TEST_CASE("harness: finds what it should") {
    auto complaint = [](auto op, auto formula) {        // about an op of one row of floats
        const Setting s{"7", {input({1, 7})}, [=](const Tensors& x) {
            const Tensor y({1, 7}, x[0].dtype());
            const std::vector<float> v = to_floats(x[0]);
            for (int i = 0; i < 7; i++) {
                const float result = x[0].dtype() == DType::f32 ? op(x[0].data<float>(), i) : op(v.data(), i);
                if (y.dtype() == DType::f32) y.data<float>()[i] = result;
                else y.data<bf16>()[i] = bf16(result);
            }
            return y;
        }, [=](const std::vector<Numbers>& x, Round q) {
            Numbers y;
            for (const Real& v : x[0]) y.push_back(formula(v, q));
            return y;
        }, Setting::Gradient::none, false, false};
        const Verdict v = judge("op", {s});
        return v.complaints.empty() ? "" : v.complaints[0];
    };
    auto third = [](const Real& v, Round q) { return q(v / 3); };
    auto same = [](const Real& v, Round) { return v; };
    EXPECT_EQ(complaint([](const float* x, int i) { return x[i] / 3; }, third), "");
    EXPECT_EQ(complaint([](const float* x, int i) { return x[i]; }, same), "");
    expect_says(complaint([](const float* x, int i) { return x[i] / 3 * (1 + 0x1p-20f); }, third), "error");
    expect_says(complaint([](const float* x, int i) { return i == 6 ? x[5] / 3 : x[i] / 3; }, third), "element 6 of y f32(1, 7)");
    expect_says(complaint([](const float* x, int i) { return i == 3 ? NAN : x[i] / 3; }, third), "is nan, the formula gives");
    expect_says(complaint([](const float* x, int i) { return i == 3 ? INFINITY : x[i] / 3; }, third), "is inf, the formula gives");
    expect_says(complaint([](const float* x, int i) { return std::nextafter(x[i], 9.0f); }, same), "limit 0");       // what should be exact is off by one ulp
    expect_says(complaint([](const float* x, int i) { return x[i]; }, [](const Real& v, Round q) { return q(q(v + 100) - 100); }), "too loose");
    expect_says(complaint([](const float* x, int i) { return x[i] / 3; }, [](const Real& v, Round) { return sqrt(-1 - v * v); }), "the formula itself");
    expect_says(complaint([](const float* x, int i) { return reinterpret_cast<uintptr_t>(x) % 64 ? x[i] : -x[i]; }, same), "its bits depend");
    expect_says(complaint([](const float* x, int i) { return omp_get_max_threads() == 1 ? x[i] : -x[i]; }, same), "its bits depend");
    const Isa best = kernels::cpu::available().back();
    if (best != Isa::portable) expect_says(complaint([=](const float* x, int i) { return kernels::cpu::isa() == best ? -x[i] : x[i]; }, same), kernels::cpu::name_of(best));
    EXPECT_EQ(kernels::cpu::isa(), best);       // put back
}

// y = x w + b in each of 5 columns, of activations x and parameters w and b
TEST_CASE("harness: finds wrong gradients") {
    struct Gradients { std::vector<float> dx, dw, db; };
    using Spoil = std::function<void(Gradients&, const Tensors& x, const Tensor& dy)>;
    auto complaint = [](const Spoil& spoil, bool recorded = true) {
        auto op = [=](const Tensors& in) {
            const std::vector<float> x = to_floats(in[0]), w = to_floats(in[1]), b = to_floats(in[2]);
            std::vector<float> y;
            for (size_t i = 0; i < 15; i++) y.push_back(x[i] * w[i % 5] + b[i % 5]);
            if (!recorded) return from_floats(y, {3, 5}, in[0].dtype());
            return record("op", from_floats(y, {3, 5}, in[0].dtype()), {&in[0], &in[1], &in[2]}, [=](const Tensor& dy) {
                Gradients g{std::vector<float>(15), std::vector<float>(5), std::vector<float>(5)};
                const std::vector<float> d = to_floats(dy);
                for (size_t i = 0; i < 15; i++) g.dx[i] = d[i] * w[i % 5], g.dw[i % 5] += d[i] * x[i], g.db[i % 5] += d[i];
                spoil(g, in, dy);
                if (!g.dx.empty()) nn::add_gradient(in[0].slot(), from_floats(g.dx, {3, 5}, dy.dtype()));
                nn::add_gradient(in[1].slot(), from_floats(g.dw, {5}));
                nn::add_gradient(in[2].slot(), from_floats(g.db, {5}));
            });
        };
        const Verdict v = judge("op", {{"3x5", {input({3, 5}), parameter({5}), parameter({5})}, op, [](const std::vector<Numbers>& x, Round q) {
            Numbers y;
            for (size_t i = 0; i < 15; i++) y.push_back(q(q(x[0][i] * x[1][i % 5]) + x[2][i % 5]));
            return y;
        }}});
        EXPECT_EQ(v.gradients, 4);
        return v.complaints.empty() ? "" : v.complaints[0];
    };
    EXPECT_EQ(complaint([](Gradients&, const Tensors&, const Tensor&) {}), "");
    auto finds = [&](const char* words, const Spoil& spoil) { expect_says(complaint(spoil), words); };
    auto f32 = [](const Tensors& x) { return x[0].dtype() == DType::f32; };
    finds("the gradient of input 1", [](Gradients& g, const Tensors&, const Tensor&) { for (float& v : g.dw) v *= 1 + 0x1p-18f; });
    finds("the gradient of input 0", [](Gradients& g, const Tensors&, const Tensor&) { for (float& v : g.dx) v *= 1 + 0x1p-18f; });
    finds("of the gradient of input 0 bf16(3, 5)", [=](Gradients& g, const Tensors& x, const Tensor&) { for (float& v : g.dx) v *= f32(x) ? 1 : 1 + 0x1p-6f; });
    finds("the gradient of input 2", [](Gradients& g, const Tensors&, const Tensor&) { std::swap(g.db[1], g.db[3]); });
    finds("the gradient of input 2", [](Gradients& g, const Tensors&, const Tensor& dy) { g.db[4] -= to_floats(dy)[14]; });       // a row is missing
    finds("element 7 of the gradient of input 0", [](Gradients& g, const Tensors&, const Tensor&) { g.dx[7] = NAN; });
    finds("input 0 gets no gradient", [](Gradients& g, const Tensors&, const Tensor&) { g.dx.clear(); });
    finds("when some inputs want no gradient", [](Gradients& g, const Tensors& x, const Tensor&) { if (!x[0].needs_grad()) g.dw[2] = std::nextafter(g.dw[2], 9.0f); });
    finds("on one thread", [](Gradients& g, const Tensors&, const Tensor&) { if (omp_get_max_threads() == 1) g.db[0] = std::nextafter(g.db[0], 9.0f); });
    finds("amid NaN", [](Gradients& g, const Tensors&, const Tensor& dy) { if (reinterpret_cast<uintptr_t>(dy.raw()) % 64) g.db[0] = std::nextafter(g.db[0], 9.0f); });
    finds("half of what two passes", [](Gradients& g, const Tensors& x, const Tensor&) { if (x[1].grad()) g.dw = to_floats(x[1].grad()), g.dw[0] = 0; });
    expect_says(complaint([](Gradients&, const Tensors&, const Tensor&) {}, false), "input 0 gets no gradient");
    const Isa best = kernels::cpu::available().back();
    if (best != Isa::portable) finds(kernels::cpu::name_of(best), [=](Gradients& g, const Tensors&, const Tensor&) { if (kernels::cpu::isa() == best) g.dw[0] = -g.dw[0]; });
}

}
