// AdamW against its formula and torch's; sums of flat buffers and what is made of them
#include "tests/harness.h"
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include "kernels/optim.h"
#include "kernels/reduce.h"
#include "tests/test.h"

using namespace merv;
using namespace merv::test;

namespace {

struct Hyper { double lr = 0.01, decay = 0, beta1 = 0.9, beta2 = 0.999, eps = 1e-8; int64_t step = 3; float grad_scale = 1; };

// One step from x = master, m, sqrt(v), grad; the new master, m, v as rows
Setting step(int64_t n, Hyper h) {
    const double root = std::sqrt(1 - std::pow(h.beta2, double(h.step))), size = h.lr / (1 - std::pow(h.beta1, double(h.step)));
    return {concat(n, ", lr ", h.lr, ", decay ", h.decay, ", step ", h.step, ", scale ", h.grad_scale), {fixed({n}), fixed({n}), fixed({n}), fixed({n})},
            [=](const Tensors& x) {
                const Tensor y({3, n});
                for (int64_t i = 0; i < 2; i++) y.slice(i, i + 1).copy_from(x[size_t(i)].reshape({1, n}));
                std::vector<float> v = to_floats(x[2]);
                for (float& f : v) f *= f;
                y.slice(2, 3).copy_from(from_floats(v, {1, n}));
                auto row = [&](int64_t i) { return y.slice(i, i + 1).reshape({n}); };
                kernels::adamw({.master = row(0), .m = row(1), .v = row(2), .grad = x[3], .step = h.step, .lr = h.lr, .beta1 = h.beta1, .beta2 = h.beta2,
                                .eps = h.eps, .decay = h.decay, .grad_scale = h.grad_scale});
                return y;
            },
            [=](const std::vector<Numbers>& x, Round q) {
                Numbers master, m, v;
                for (size_t i = 0; i < size_t(n); i++) {
                    const Real g = q(x[3][i] * double(h.grad_scale)), before = to_f32((x[2][i] * x[2][i]).v);
                    m.push_back(q(x[1][i] + q(q(1 - h.beta1) * q(g - x[1][i]))));
                    v.push_back(q(q(before * q(h.beta2)) + q(q(q(1 - h.beta2) * g) * g)));
                    const Real kept = q(x[0][i] * q(1 - h.lr * h.decay)), below = q(q(q(sqrt(v.back())) / q(root)) + q(h.eps));
                    master.push_back(q(kept - q(q(q(size) * m.back()) / below)));
                }
                master.insert(master.end(), m.begin(), m.end());
                master.insert(master.end(), v.begin(), v.end());
                return master;
            }, Setting::Gradient::none};
}

Tensor floats(const nlohmann::json& j) { return from_floats(j.get<std::vector<float>>(), {int64_t(j.size())}); }

// Runs f on every instruction set this machine has, and gives what it returned on each.
template <class F> Tensors on_each_isa(const F& f) {
    Tensors all;
    const auto before = kernels::cpu::isa();
    for (kernels::cpu::Isa i : kernels::cpu::available()) kernels::cpu::use(i), all.push_back(f());
    kernels::cpu::use(before);
    return all;
}

}

TEST_CASE("adamw: one step") {
    std::vector<Setting> s;
    for (int64_t n : {1, 15, 17, 1023, 1025, 20000})
        for (const Hyper& h : {Hyper{}, Hyper{.decay = 0.1}, Hyper{.lr = 2e-5, .decay = 0.1, .step = 1}, Hyper{.lr = 0.3, .beta1 = 0.8, .beta2 = 0.95, .eps = 1e-3, .step = 1000, .grad_scale = 0.3f}})
            s.push_back(step(n, h));
    check_op("adamw", s);
}

TEST_CASE("adamw: ten steps equal torch.optim.AdamW's, with and without decay") {     // tests/golden/gradients.py
    std::ifstream in(golden("adamw.json"));
    const nlohmann::json j = nlohmann::json::parse(in);
    for (const auto& c : j["cases"]) {
        const int64_t n = int64_t(j["start"].size());
        const Tensor p = floats(j["start"]), m = zeros({n}), v = zeros({n}), half({n}, DType::bf16);
        for (size_t t = 0; t < j["grads"].size(); t++)
            kernels::adamw({.master = p, .m = m, .v = v, .param = half, .grad = floats(j["grads"][t]), .step = int64_t(t) + 1, .lr = c["lr"], .decay = c["decay"]});
        for (const auto& [name, ours] : {std::pair{"p", p}, {"m", m}, {"v", v}}) {
            double error = 0, norm = 0;         // from torch's f64 run; torch's own f32 run is error[name] away from it
            for (int64_t i = 0; i < n; i++) error += std::pow(double(ours.data<float>()[i]) - c[name][size_t(i)].get<double>(), 2), norm += std::pow(c[name][size_t(i)].get<double>(), 2);
            const double limit = 2.5 * c["error"][name].get<double>();
            std::printf("  adamw lr %-5g decay %-5g %s error %.2e limit %.2e of %.2e\n", c["lr"].get<double>(), c["decay"].get<double>(), name, std::sqrt(error), limit, std::sqrt(norm));
            EXPECT_LE(std::sqrt(error), limit);
        }
        EXPECT(same_bits(half, from_floats(to_floats(p), {n}, DType::bf16)));
    }
}

TEST_CASE("adamw: shards, threads and instruction sets do not matter") {
    const int64_t n = 70001;
    const Tensor start = normal({n}, "p"), grad = normal({n}, "g");
    auto run = [&](int64_t cut) {
        const Tensor all({3, n});
        all.slice(0, 1).copy_from(start.reshape({1, n}));
        std::fill_n(all.data<float>() + n, 2 * n, 0.0f);
        for (int64_t t = 1; t <= 3; t++)
            for (auto [begin, end] : {std::pair{int64_t(0), cut}, {cut, n}}) {
                auto shard = [&, begin = begin, end = end](int64_t i) { return all.slice(i, i + 1).reshape({n}).slice(begin, end); };
                kernels::adamw({.master = shard(0), .m = shard(1), .v = shard(2), .grad = grad.slice(begin, end), .step = t, .decay = 0.1});
            }
        return all;
    };
    const Tensor want = run(n);
    EXPECT(same_bits(run(333), want));
    { const Threads one(1); EXPECT(same_bits(run(n), want)); }
    for (const Tensor& t : on_each_isa([&] { return run(n); })) EXPECT(same_bits(t, want));
}

TEST_CASE("sums of a flat buffer: their order, on any thread and instruction set") {
    for (const DType dtype : {DType::f32, DType::bf16})
        for (const int64_t n : {1, 15, 16, 17, 4095, 4096, 4097, 50003}) {
            const Tensor x = normal({n}, "x", 0.1, 1, dtype);
            const std::vector<float> values = to_floats(x);
            for (const bool squares : {false, true}) {
                std::vector<float> chunks;      // the order as kernels/reduce.h words it
                double exact = 0, rounding = 0;     // of the chunks to f32
                for (int64_t begin = 0; begin < n; begin += 4096) {
                    double s[16] = {};
                    for (int64_t i = begin; i < std::min(n, begin + 4096); i++) {
                        const double v = double(values[size_t(i)]) * (squares ? double(values[size_t(i)]) : 1.0);
                        s[(i - begin) % 16] += v, exact += v;
                    }
                    for (int half = 8; half; half /= 2) for (int k = 0; k < half; k++) s[k] += s[k + half];
                    chunks.push_back(float(s[0])), rounding += 0x1p-24 * std::fabs(s[0]) + 1e-12;
                }
                const Tensor want = from_floats(chunks, {int64_t(chunks.size())});
                for (const Tensor& t : on_each_isa([&] { return kernels::chunk_sums(x, squares); })) EXPECT(same_bits(t, want));
                { const Threads one(1); EXPECT(same_bits(kernels::chunk_sums(x, squares), want)); }
                const double sum = squares ? kernels::sum_of_squares(x) : kernels::sum(x);
                EXPECT_LE(std::fabs(sum - exact), rounding);
            }
            EXPECT_EQ(kernels::mean(x), kernels::sum(x) / double(n));
        }
    const Tensor x = normal({10000}, "x");      // split where chunks end
    EXPECT_EQ(kernels::sum_of_squares(x), kernels::sum_of_squares(x.slice(0, 4096)) + kernels::sum_of_squares(x.slice(4096, 8192)) + kernels::sum_of_squares(x.slice(8192, 10000)));
    EXPECT_EQ(kernels::sum(Tensor({0})), 0.0);
}

TEST_CASE("adamw: a clip factor made and read on the device gives the bits of one the host passes") {
    kernels::use_checks(true);
    for (Device device : {Device::cpu, Device::emu})
        for (double limit : {1.0, 1000.0}) {
            const OnDevice on(device);
            const int64_t n = 300'001;              // 74 sums: more than two rounds of a warp
            const Tensor grad = normal({n}, "grad").to(device), sums = kernels::chunk_sums(grad, true), factor({1});
            kernels::clip_factor({.factor = factor, .sums = sums, .limit = limit});
            const float expected = kernels::clip_scale(std::sqrt(kernels::total(sums)), limit);
            EXPECT_EQ(to_floats(factor)[0], expected);
            EXPECT_EQ(expected < 1, limit == 1.0);
            Tensors results[2];
            for (const bool on_device : {false, true}) {
                const Tensor master = normal({n}, "master").to(device), m = zeros({n}), v = zeros({n});
                if (on_device) kernels::adamw({.master = master, .m = m, .v = v, .grad = grad, .grad_scale = 0.5f, .clip = factor});
                else kernels::adamw({.master = master, .m = m, .v = v, .grad = grad, .grad_scale = 0.5f * expected});
                results[on_device] = {master.to(Device::cpu), m.to(Device::cpu), v.to(Device::cpu)};
            }
            for (size_t i = 0; i < 3; i++) EXPECT(same_bits(results[0][i], results[1][i]));
        }
}

TEST_CASE("clip_scale is torch's") {
    EXPECT_EQ(kernels::clip_scale(0.5, 1), 1.0f);
    EXPECT_EQ(kernels::clip_scale(1, 1), float(1 / (1 + 1e-6)));        // just below 1
    EXPECT_EQ(kernels::clip_scale(4, 1), float(1 / (4 + 1e-6)));
    EXPECT_EQ(kernels::clip_scale(0, 1), 1.0f);
    EXPECT(std::isnan(kernels::clip_scale(NAN, 1)));
}
