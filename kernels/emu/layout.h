// Where the elements of a matrix lie: in the registers of tensor-core instructions, and in shared memory under wgmma's descriptors
// and TMA's boxes. Pure functions, by the PTX ISA; tests/test_layouts.cpp compares them with CuTe's layouts.
#pragma once
#include <cstdint>

namespace merv::emu::layout {

struct Element { int row, column; };            // of A or C; of B: k, n

// A and C of mma.sync and wgmma: a warp holds 16 rows, four warps 64. A's value 2 r + h is half h of register r; C's are registers.
inline Element fragment(int thread, int value) {
    const int warp = thread / 32, lane = thread % 32;
    return {16 * warp + lane / 4 + 8 * (value >> 1 & 1), 8 * (value >> 2) + 2 * (lane % 4) + (value & 1)};
}
// B of mma.sync m16n8k16
inline Element fragment_b(int lane, int value) { return {8 * (value >> 1) + 2 * (lane % 4) + (value & 1), lane / 4}; }

// ldmatrix: half `half` of register r of a lane is this element of the row whose address that lane gave.
struct RowElement { int lane, element; };
inline RowElement ldmatrix_source(int lane, int r, int half, bool trans) {
    const int along = lane / 4, across = 2 * (lane % 4) + half;
    return trans ? RowElement{8 * r + across, along} : RowElement{8 * r + along, across};
}

// Swizzles exchange 16-byte units within a row of `span` bytes (0: none, 32, 64, 128), by the row: bits 4-6 ^= bits 7-9 of the address.
inline uint32_t swizzled(uint32_t address, int span) { return address ^ ((address >> 7 & uint32_t(span / 16 - (span != 0))) << 4); }

// ---- wgmma's matrix descriptors
struct Descriptor {                             // in bytes
    uint32_t start, leading, stride;
    int span;                                   // of the swizzle
};
inline Descriptor decode(uint64_t d) {
    constexpr int spans[] = {0, 128, 64, 32};
    auto field = [d](int low) { return uint32_t(d >> low & 0x3fff) << 4; };
    return {field(0), field(16), field(32), spans[d >> 62]};
}
inline constexpr uint64_t kUnassigned = 0x3fffc000c000c000;     // bits that must be zero, the base offset among them

// Shared address of element (mn, k) of A or B, mn: its row of A or column of B. Core matrices of 8 x 16 bytes lie in atoms of 8 rows by the
// swizzle's span; from atom to atom it is `leading` or `stride`, depending on which dimension is contiguous.
inline uint32_t operand(const Descriptor& d, int mn, int k, bool mn_major) {
    const int along = mn_major ? mn : k, across = mn_major ? k : mn;        // along what is contiguous
    const int width = d.span ? d.span / 2 : 8;                              // of an atom
    const uint32_t inside = uint32_t(across % 8 * width * 2 + along % width * 2);
    uint32_t next_along = d.leading, next_across = d.stride;
    if (mn_major && !d.span) next_along = d.stride, next_across = d.leading;
    return swizzled(d.start + inside + uint32_t(along / width) * next_along + uint32_t(across / 8) * next_across, d.span);
}

// ---- TMA
// Shared address of byte `inner` of row `row` (counted over the outer dimensions) of a box whose rows take `row_bytes`
inline uint32_t boxed(uint32_t start, uint32_t row, uint32_t inner, uint32_t row_bytes, int span) { return swizzled(start + row * row_bytes + inner, span); }
// Whether a coordinate lies in the tensor: what lies outside is loaded as zero and not stored.
inline bool inside(int64_t coordinate, uint64_t size) { return coordinate >= 0 && uint64_t(coordinate) < size; }

}
