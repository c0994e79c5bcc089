// The self-test of a card: known answers at the first use of a device by a build, remembered in $XDG_CACHE_HOME/merv (or ~/.cache/merv). MERV_SELF_TEST=0 leaves it out,
// `always` asks again; an emulated device is asked only with `always`.
#pragma once
#include <string>
#include <vector>
#include "kernels/known_answers.h"

namespace merv {

struct Verdict {
    std::string op, way;
    double error = 0, limit = 0;
    enum class Result { right, by_another_way, wrong, crashed } result = Result::right;        // the last two: the op runs on the host from now on
};
// Asks everything now, and replaces what fails. `record`: a file to which each op is written before it is asked, and its verdict after, so that the next start knows which one ended
// the program; "" for none. What that file says crashed before is not asked again.
std::vector<Verdict> self_test(const std::string& record, const std::vector<kernels::Question>& questions = kernels::known_answers());

// What open_cuda calls: self_test() once per device and build, else its verdicts from the file. Says one line for each op that is replaced.
void test_device(const std::string& device, const std::string& uuid, int driver, const std::vector<kernels::Question>& questions = kernels::known_answers());

}
