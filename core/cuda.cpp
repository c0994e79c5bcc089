#include "core/cuda.h"
#include <algorithm>
#include <charconv>
#include <utility>
#include <vector>
#include "core/check.h"
#include "core/log.h"
#include "core/profile.h"

namespace merv {

[[gnu::weak]] std::unique_ptr<Cuda> make_cuda(int number);  // kernels/cuda/host/device.cpp, where it is linked

namespace {
Cuda*& opened() {
    static Cuda* device = nullptr;                          // never closed: tensors may outlive static destructors
    return device;
}
}

bool has_cuda_backend() { return make_cuda != nullptr; }
void open_cuda(int number) {
    if (!has_cuda_backend()) fail(Exit::device, "cuda:", number, ": this program was built without the CUDA backend; build it with `make CUDA=1`, or use --device cpu");
    if (opened()) return;
    opened() = make_cuda(number).release();
    profile::use(opened()->timer(), Device::cuda);
    opened()->self_test();
}
Cuda& cuda() {
    CHECK(opened(), "a CUDA device is used before open_cuda");
    return *opened();
}

void none_left_on_cuda(size_t bytes, const char* tag) {
    std::vector<std::pair<size_t, std::string>> owners;
    for (const auto& [owner, held] : memory_by_tag())
        if (const size_t name = owner.rfind(" (cuda)"); held && name != owner.npos) owners.emplace_back(held, owner.substr(0, name));
    std::sort(owners.rbegin(), owners.rend());
    std::string list;
    for (size_t i = 0; i < std::min<size_t>(owners.size(), 10); i++) list += concat(i ? ", " : "", owners[i].second, " ", owners[i].first >> 20, " MiB");
    fail(Exit::no_memory, "out of memory on ", cuda().name(), ": ", (bytes + (1 << 20) - 1) >> 20, " MiB for ", tag, "; held: ", list.empty() ? "nothing" : list,
         ". Fewer --num-frames or --max-tokens, a smaller batch, or --dtype bf16 need less");
}

RepeatedStep::RepeatedStep(std::function<Tensor(const Tensor&)> step, int64_t& position, int64_t end) : step_(std::move(step)), position_(position), end_(end) {
    if (current_device() == Device::cuda && !profile::on()) graph_ = cuda().graph();
    if (graph_) id_ = Tensor({1}, DType::i32, Device::cuda);
}
Tensor RepeatedStep::operator()(int32_t id) {
    const Tensor here = from_ints({&id, 1});
    if (!graph_) return step_(here);
    id_.copy_from(here);                        // behind the step that reads the token before
    Tensor made = std::exchange(captured_, {});
    if (made) graph_->launch(), position_ = after_;
    else graph_->run([&] { made = step_(id_); });
    const int64_t position = position_;
    if (position < end_ && !graph_->capture([&] { captured_ = step_(id_); })) captured_ = {};
    after_ = std::exchange(position_, position);
    return made;
}

Device open_device(const std::string& name) {
    if (name == "cpu") return Device::cpu;
    if (name == "emu") return Device::emu;
    if (name == "auto") {
        try {
            open_cuda(0);
            say("device: ", cuda().name());
            return Device::cuda;
        } catch (const Error& e) {
            if (e.code != Exit::device) throw;
            if (has_cuda_backend()) say("device: cpu (", e.what(), ")");
            else say_verbose("device: cpu (", e.what(), ")");
            return Device::cpu;
        }
    }
    int number = 0;
    const std::string digits = name.starts_with("cuda:") ? name.substr(5) : "";
    const bool numbered = !digits.empty() && std::from_chars(digits.data(), digits.data() + digits.size(), number).ptr == digits.data() + digits.size();
    if (name == "cuda" || numbered) {
        open_cuda(number);
        say_verbose("device: ", cuda().name());
        return Device::cuda;
    }
    fail(Exit::usage, "--device takes auto, cpu, cuda, cuda:N or emu, not '", name, "'");
}

}
