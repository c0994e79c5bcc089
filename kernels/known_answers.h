// Questions to a card whose answers are known: every op, on every way its kernels have, on small inputs. The answers are those of the CPU backend, which tests/cases hold to
// formulas in double.
#pragma once
#include <functional>
#include <string>
#include <vector>
#include "core/tensor.h"

namespace merv::kernels {

struct Answer { double error = 0, limit = 0; };         // largest difference of an output over its largest value; NaN counts as infinite

struct Question {
    const char* op;                             // the argument struct: "LayerNormFwd"
    std::string way;                            // "bf16, 80 columns"
    std::function<Answer()> ask;                // of the CUDA device that is open
    bool* special;                              // the special way that it takes, which can be left; or null
    bool* replaced;                             // set: the op runs on the host
};
// `spoil`, for tests: changes an output of the card before it is compared.
using Spoil = std::function<void(const std::string& op, const std::string& way, const Tensor& out)>;
std::vector<Question> known_answers(const Spoil& spoil = {});

}
