// The op-case harness. Per op the author writes its call and its formula, naively from the definition; inputs, oracles and
// tolerances are derived from them, for the result and for the gradient of every input.
//   oracle   the formula in double; its gradient is its exact derivative (tests/real.h), of L = sum(dy y) for a random dy
//   naive    the same formula, and derivative, in plain f32: q() rounds every value a plain program would keep, and partial
//            derivatives and sums of adjoints are rounded alike; what is stored as bf16 is rounded to bf16
//   error    max |op - oracle|         limit    2 max |naive - oracle| + 1 ulp (of the result's type) of the largest |oracle|;
//                                                0 where naive = oracle
// Maxima run over as many draws of the inputs as give 128 rows: on a few numbers plain f32 may be lucky. So an op may
// err twice as much as the plainest program, moving data and other exact ops not at all. Largest errors are a matter of luck
// where few elements count (a gradient through one steep row): a setting beyond its limit fails if it still is after 32 times as
// many draws. Nobody tunes a limit, and none may be slack: a case none of whose settings comes within a tenth of its limit fails
// as too loose, for results and gradients, f32 and bf16 each.
//
// A setting runs in f32 and in bf16 activations, with f32 and bf16 parameters if it has any, on every instruction set of the
// machine. Two limits of cost: a formula of more than kRecorded steps has no gradient taken (one setting of each op must),
// and one of more than kPortable steps is not computed again in portable's arithmetic (no fused multiply-add), so portable
// runs the smaller settings only.
#pragma once
#include <functional>
#include <string>
#include <string_view>
#include <vector>
#include "core/tensor.h"
#include "kernels/cpu.h"
#include "tests/real.h"

namespace merv::test {

using Tensors = std::vector<Tensor>;
using kernels::cpu::Isa;

struct Input {                                  // normally distributed, seeded by its place and the setting's name
    Shape shape;
    double mean = 0, spread = 1;
    enum class Kind { activation, parameter, weights, fixed, pixels, absent } kind = Kind::activation;
};
inline Input input(Shape s, double mean = 0, double spread = 1) { return {s, mean, spread}; }                                   // f32, bf16 in further runs; so is its gradient
inline Input parameter(Shape s, double mean = 0, double spread = 1) { return {s, mean, spread, Input::Kind::parameter}; }       // f32, bf16 in further runs; its gradient f32
inline Input weights(Shape s) { return {s, 0, 1, Input::Kind::weights}; }                                                       // f32 in every run, and its gradient
inline Input fixed(Shape s) { return {s, 0, 1, Input::Kind::fixed}; }                                                           // f32 in every run, without gradient
inline Input pixels(Shape s) { return {s, 0, 0, Input::Kind::pixels}; }                                                         // u8, 0 to 255
inline Input absent() { return {{}, 0, 0, Input::Kind::absent}; }                                                               // no tensor, no numbers

struct Setting {
    std::string name;
    std::vector<Input> inputs;
    std::function<Tensor(const Tensors&)> op;
    std::function<Numbers(const std::vector<Numbers>&, Round q)> formula;      // a function of its inputs alone: gradients differentiate it
    enum class Gradient { checked, none } gradient = Gradient::checked;         // none: the op has none, or is called below the tape
    bool own_type = false;                                                      // y's type is not that of the activations
    bool on_gpu = true;
    bool one_forward = true;                                                    // on GPUs: one kernel, and so the same bits, whether a gradient is wanted or not
};

struct Nearest {                                // among settings: the one that comes nearest to its limit
    double error = 0, limit = 0;
    std::string where;                          // empty if every setting is exact
};
struct Verdict {
    int settings = 0, gradients = 0, isas = 0, emulated = 0;    // runs, in whatever types; those with a gradient, and by the emulator
    Nearest values[2], slopes[2];               // results and gradients; in f32 and in bf16
    std::vector<std::string> complaints;        // none: the op is right
};
// Each setting runs on exact-size inputs (AddressSanitizer then sees any access outside), and once more on one thread with unaligned
// inputs amid NaN: its bits may depend on neither. Nor may they depend on which gradients are asked for.
Verdict judge(const std::string& op, const std::vector<Setting>& settings);
// Judges inside a TEST_CASE: prints one line with the worst errors and their limits, and fails once per complaint.
// MERV_TEST_VERBOSE=1 prints a line per setting; MERV_TEST_SEED=N draws other inputs.
void check_op(const std::string& op, const std::vector<Setting>& settings);

// y and the gradients of the inputs that are `wanted`, through the product's tape; `times` over, which adds up.
struct Derived { Tensor y; Tensors gradients; };
Derived derive(const std::function<Tensor(const Tensors&)>& op, Tensors x, const Tensor& dy, const std::vector<bool>& wanted, int times = 1);

Tensor normal(Shape shape, std::string_view purpose, double mean = 0, double spread = 1, DType dtype = DType::f32);
bool same_bits(const Tensor& a, const Tensor& b);       // shape, dtype and every bit
Tensor amid_nan(const Tensor& t, Device d = Device::cpu);      // a copy with NaN (u8: 255) on both sides; on the CPU at an odd address

struct Threads {                                // OpenMP's threads, in scope
    explicit Threads(int n);
    ~Threads();
    Threads(const Threads&) = delete;
    Threads& operator=(const Threads&) = delete;

  private:
    int saved_;
};
struct Using {                                  // this instruction set, in scope
    explicit Using(Isa isa) : saved_(kernels::cpu::isa()) { kernels::cpu::use(isa); }
    ~Using() { kernels::cpu::use(saved_); }
    Using(const Using&) = delete;
    Using& operator=(const Using&) = delete;

  private:
    Isa saved_;
};
inline std::string isa_name(Isa isa) { return kernels::cpu::name_of(isa); }
template <class F> void on_every_isa(F f) {     // f(isa)
    for (Isa isa : kernels::cpu::available()) {
        const Using u(isa);
        f(isa);
    }
}

}
