// A module is any struct with visit(f), which calls f("name", member) for each parameter tensor or sub-module. No base class
// and no registration: the names are the checkpoint's names, in one place, in order, and serve loading, saving and counting.
#pragma once
#include <string>
#include <type_traits>
#include "core/tensor.h"

namespace merv::nn {

// f(full name, tensor) for each parameter the module has ("no tensor" members are left out).
template <class M, class F> void for_each_parameter(M& module, F&& f, const std::string& prefix = "") {
    module.visit([&](const std::string& name, auto& member) {
        using T = std::remove_cvref_t<decltype(member)>;
        if constexpr (std::is_same_v<T, Tensor>) {
            if (member) f(prefix + name, member);
        } else if constexpr (requires { member.begin(); }) {
            for (size_t i = 0; i < member.size(); i++) for_each_parameter(member[i], f, prefix + name + "." + std::to_string(i) + ".");
        } else {
            for_each_parameter(member, f, prefix + name + ".");
        }
    });
}
template <class M> int64_t count_parameters(M& module) {
    int64_t n = 0;
    for_each_parameter(module, [&](const std::string&, const Tensor& t) { n += t.numel(); });
    return n;
}

}
