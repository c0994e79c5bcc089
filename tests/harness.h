// The op-case harness. Per op the author writes its call and its formula in double, naively from the definition; inputs,
// oracle and tolerance are derived from them.
//   oracle   the formula as it stands, in double
//   naive    the same formula with q() rounding to f32 every value a plain f32 program would keep
//   error    max |op - oracle|         limit    2 max |naive - oracle| + 1 ulp of the largest |oracle|; 0 where naive = oracle
// Maxima run over as many draws of the inputs as give 128 rows: on a few numbers plain f32 may be lucky. So an op may
// err twice as much as the plainest f32 program, moving data and other exact ops not at all. Nobody tunes a limit, and none
// may be slack: a case none of whose settings comes within a tenth of its limit fails as too loose.
#pragma once
#include <functional>
#include <string>
#include <string_view>
#include <vector>
#include "core/tensor.h"
#include "kernels/cpu.h"

namespace merv::test {

using Numbers = std::vector<double>;            // a tensor's elements
using Round = double (*)(double);               // q: identity or nearest f32
using Tensors = std::vector<Tensor>;

// One step of a sum of products in plain f32: fused where the instruction set in use fuses it, else two roundings.
inline double madd(double a, double b, double c, Round q) {
    return kernels::cpu::isa() == kernels::cpu::Isa::portable ? q(q(a * b) + c) : q(a * b + c);
}

struct Input {                                  // normally distributed, seeded by its place and the setting's name
    Shape shape;
    double mean = 0, spread = 1;
    enum class Kind { activation, parameter, pixels, absent } kind = Kind::activation;
};
inline Input input(Shape s, double mean = 0, double spread = 1) { return {s, mean, spread}; }                                   // f32
inline Input parameter(Shape s, double mean = 0, double spread = 1) { return {s, mean, spread, Input::Kind::parameter}; }       // f32, and bf16 in a second run
inline Input pixels(Shape s) { return {s, 0, 0, Input::Kind::pixels}; }                                                         // u8, 0 to 255
inline Input absent() { return {{}, 0, 0, Input::Kind::absent}; }                                                               // no tensor, no numbers

struct Setting {
    std::string name;
    std::vector<Input> inputs;
    std::function<Tensor(const Tensors&)> op;
    std::function<Numbers(const std::vector<Numbers>&, Round q)> formula;      // a function of its inputs alone: gradients differentiate it
};

struct Verdict {
    int settings = 0;
    double error = 0, limit = 0;                // of the setting that comes nearest to its limit,
    std::string where;                          // and its name; empty if every setting is exact
    std::vector<std::string> complaints;        // none: the op is right
};
// Each setting runs on exact-size inputs (AddressSanitizer then sees any access outside), and once more on one thread with unaligned
// inputs amid NaN: its bits may depend on neither.
Verdict judge(const std::string& op, const std::vector<Setting>& settings);
// Judges inside a TEST_CASE: prints one line with the worst error and its limit, and fails once per complaint.
// MERV_TEST_VERBOSE=1 prints a line per setting; MERV_TEST_SEED=N draws other inputs.
void check_op(const std::string& op, const std::vector<Setting>& settings);

Tensor normal(Shape shape, std::string_view purpose, double mean = 0, double spread = 1, DType dtype = DType::f32);
bool same_bits(const Tensor& a, const Tensor& b);       // shape, dtype and every bit
Tensor amid_nan(const Tensor& t);                       // a copy at an odd address, with NaN (u8: 255) on both sides

struct Threads {                                // OpenMP's threads, in scope
    explicit Threads(int n);
    ~Threads();
    Threads(const Threads&) = delete;
    Threads& operator=(const Threads&) = delete;

  private:
    int saved_;
};

}
