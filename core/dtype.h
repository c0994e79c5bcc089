// Element types. Four only: f32 (activations, statistics), bf16 (weights), i32 (tokens), u8 (frames).
#pragma once
#include <bit>
#include <cstdint>
#include "core/check.h"

namespace merv {

struct bf16 {                                   // the upper half of an f32
    uint16_t bits = 0;
    bf16() = default;
    constexpr explicit bf16(float f) {                  // rounds to nearest even; every NaN becomes the same quiet NaN
        const uint32_t u = std::bit_cast<uint32_t>(f);
        bits = f != f ? uint16_t(0x7fc0) : uint16_t((u + 0x7fff + ((u >> 16) & 1)) >> 16);
    }
    constexpr operator float() const { return std::bit_cast<float>(uint32_t(bits) << 16); }
};

enum class DType : uint8_t { f32, bf16, i32, u8 };

constexpr int size_of(DType t) { return t == DType::f32 || t == DType::i32 ? 4 : t == DType::bf16 ? 2 : 1; }
constexpr const char* name_of(DType t) {
    constexpr const char* names[] = {"f32", "bf16", "i32", "u8"};
    return names[int(t)];
}

template <class T> constexpr DType dtype_of() {
    if constexpr (std::is_same_v<T, float>) return DType::f32;
    else if constexpr (std::is_same_v<T, bf16>) return DType::bf16;
    else if constexpr (std::is_same_v<T, int32_t>) return DType::i32;
    else { static_assert(std::is_same_v<T, uint8_t>, "no DType for this type"); return DType::u8; }
}

// with_float_type(w.dtype(), [&]<class W>() { kernel<W>(...); });
template <class F> decltype(auto) with_float_type(DType t, F&& f) {
    CHECK(t == DType::f32 || t == DType::bf16, "f32 or bf16 expected, not ", name_of(t));
    return t == DType::f32 ? f.template operator()<float>() : f.template operator()<bf16>();
}

}
