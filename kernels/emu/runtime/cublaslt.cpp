// cublasLt: D = epilogue(alpha op(A) op(B) + beta C), in f32. What the library would refuse is reported with the reason in words;
// what it supports beyond this is refused too.
#include <cublasLt.h>
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include "core/dtype.h"
#include "kernels/emu/runtime/state.h"

namespace merv::emulated_runtime {
namespace {

// ---- the opaque structures, which the program may also keep on its stack

enum : uint32_t { kProblem = 0x4d455231, kLayout, kPreference, kAlgorithm };
struct Problem {
    uint32_t magic = kProblem;
    int32_t compute = CUBLAS_COMPUTE_32F, scale = CUDA_R_32F, pointers = CUBLASLT_POINTER_MODE_HOST;
    int32_t trans_a = CUBLAS_OP_N, trans_b = CUBLAS_OP_N;
    uint32_t epilogue = CUBLASLT_EPILOGUE_DEFAULT;
    int32_t bias_type = -1, aux_type = -1;      // -1: D's
    void *bias = nullptr, *aux = nullptr;
    int64_t bias_stride = 0, aux_ld = 0, aux_stride = 0;        // elements; strides: of a batch
};
struct Layout {
    uint32_t magic = kLayout;
    int32_t type = CUDA_R_32F, order = CUBLASLT_ORDER_COL, batch = 1;
    uint64_t rows = 0, columns = 0;
    int64_t ld = 0, stride = 0;                 // elements

    bool by_row() const { return order == CUBLASLT_ORDER_ROW; }
    size_t element() const { return type == CUDA_R_16BF ? 2 : 4; }
    uint64_t inner() const { return by_row() ? columns : rows; }        // elements that lie together
    uint64_t outer() const { return by_row() ? rows : columns; }
    size_t index(uint64_t i, uint64_t j) const { return by_row() ? i * size_t(ld) + j : j * size_t(ld) + i; }
};
struct Preference {
    uint32_t magic = kPreference;
    uint32_t alignment[4] = {256, 256, 256, 256};       // bytes, of A, B, C, D
    uint64_t workspace = 0;                     // bytes at most
};
struct Algorithm {
    uint32_t magic = kAlgorithm;
    uint32_t alignment[4] = {16, 16, 16, 16};
    uint64_t workspace = 0;                     // bytes it writes
    uint64_t problem = 0;                       // that it was chosen for
};
constexpr uint64_t kWorkspace = 4096;           // an algorithm's, if it may have so much

template <class T, class Opaque> T get(const Opaque* opaque) {
    static_assert(sizeof(T) <= sizeof(Opaque) && std::is_trivially_copyable_v<T>);
    T t;
    t.magic = 0;
    if (opaque) std::memcpy(static_cast<void*>(&t), opaque, sizeof t);
    return t;
}
template <class T, class Opaque> cublasStatus_t put(Opaque* opaque, const T& t) {
    std::memcpy(opaque, &t, sizeof t);
    return CUBLAS_STATUS_SUCCESS;
}

template <class Opaque> cublasStatus_t destroy(Opaque* opaque) {
    if (opaque) std::memset(opaque, 0, sizeof *opaque);
    delete opaque;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t refuse(const char* function, const std::string& why, cublasStatus_t status = CUBLAS_STATUS_INVALID_VALUE) {
    report("CUBLAS", concat(function, " ", why), concat(function, ": ", why));
    return status;
}
template <class F> cublasStatus_t call(const char* function, F&& f) { return api(function, CUBLAS_STATUS_EXECUTION_FAILED, [&]() -> cublasStatus_t { return f(); }); }

struct Field { void* at; size_t bytes; };
cublasStatus_t set(const char* function, Field field, int attribute, const void* value, size_t bytes) {
    if (!field.at) return refuse(function, concat("attribute ", attribute, " is not emulated"), CUBLAS_STATUS_NOT_SUPPORTED);
    if (!value || bytes != field.bytes) return refuse(function, concat("attribute ", attribute, " takes ", field.bytes, " bytes, not ", bytes));
    std::memcpy(field.at, value, bytes);
    return CUBLAS_STATUS_SUCCESS;
}
Field field_of(Problem& p, cublasLtMatmulDescAttributes_t a) {
    switch (a) {
        case CUBLASLT_MATMUL_DESC_COMPUTE_TYPE: return {&p.compute, 4};
        case CUBLASLT_MATMUL_DESC_SCALE_TYPE: return {&p.scale, 4};
        case CUBLASLT_MATMUL_DESC_POINTER_MODE: return {&p.pointers, 4};
        case CUBLASLT_MATMUL_DESC_TRANSA: return {&p.trans_a, 4};
        case CUBLASLT_MATMUL_DESC_TRANSB: return {&p.trans_b, 4};
        case CUBLASLT_MATMUL_DESC_EPILOGUE: return {&p.epilogue, 4};
        case CUBLASLT_MATMUL_DESC_BIAS_POINTER: return {&p.bias, 8};
        case CUBLASLT_MATMUL_DESC_BIAS_BATCH_STRIDE: return {&p.bias_stride, 8};
        case CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE: return {&p.bias_type, 4};
        case CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER: return {&p.aux, 8};
        case CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD: return {&p.aux_ld, 8};
        case CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_BATCH_STRIDE: return {&p.aux_stride, 8};
        case CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_DATA_TYPE: return {&p.aux_type, 4};
        default: return {};
    }
}
Field field_of(Layout& l, cublasLtMatrixLayoutAttribute_t a) {
    switch (a) {
        case CUBLASLT_MATRIX_LAYOUT_TYPE: return {&l.type, 4};
        case CUBLASLT_MATRIX_LAYOUT_ORDER: return {&l.order, 4};
        case CUBLASLT_MATRIX_LAYOUT_ROWS: return {&l.rows, 8};
        case CUBLASLT_MATRIX_LAYOUT_COLS: return {&l.columns, 8};
        case CUBLASLT_MATRIX_LAYOUT_LD: return {&l.ld, 8};
        case CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT: return {&l.batch, 4};
        case CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET: return {&l.stride, 8};
        default: return {};
    }
}
Field field_of(Preference& p, cublasLtMatmulPreferenceAttributes_t a) {
    switch (a) {
        case CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES: return {&p.workspace, 8};
        case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES: return {&p.alignment[0], 4};
        case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES: return {&p.alignment[1], 4};
        case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES: return {&p.alignment[2], 4};
        case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES: return {&p.alignment[3], 4};
        default: return {};
    }
}

// ---- epilogues

struct Epilogue {
    bool bias, gelu, dgelu, aux, bias_gradient, of_a, of_b;     // the gradient: of D; of_a, of_b: sums over k
    explicit Epilogue(uint32_t e)
        : bias(e & CUBLASLT_EPILOGUE_BIAS), gelu(e & CUBLASLT_EPILOGUE_GELU), dgelu((e & CUBLASLT_EPILOGUE_DGELU) == CUBLASLT_EPILOGUE_DGELU), aux(e & 128),
          bias_gradient(e == CUBLASLT_EPILOGUE_DGELU_BGRAD), of_a(e == CUBLASLT_EPILOGUE_BGRADA), of_b(e == CUBLASLT_EPILOGUE_BGRADB) {}
    bool writes_bias() const { return bias_gradient || of_a || of_b; }
};
bool is_emulated(uint32_t e) {
    switch (e) {
        case CUBLASLT_EPILOGUE_DEFAULT: case CUBLASLT_EPILOGUE_BIAS: case CUBLASLT_EPILOGUE_GELU: case CUBLASLT_EPILOGUE_GELU_BIAS: case CUBLASLT_EPILOGUE_GELU_AUX:
        case CUBLASLT_EPILOGUE_GELU_AUX_BIAS: case CUBLASLT_EPILOGUE_DGELU: case CUBLASLT_EPILOGUE_DGELU_BGRAD: case CUBLASLT_EPILOGUE_BGRADA: case CUBLASLT_EPILOGUE_BGRADB: return true;
        default: return false;
    }
}
constexpr float kRootTwoOverPi = 0.7978845608f, kCubic = 0.044715f;
float gelu(float x) { return 0.5f * x * (1 + std::tanh(kRootTwoOverPi * (x + kCubic * x * x * x))); }
float gelu_slope(float x) {
    const float t = std::tanh(kRootTwoOverPi * (x + kCubic * x * x * x));
    return 0.5f * (1 + t) + 0.5f * x * (1 - t * t) * kRootTwoOverPi * (1 + 3 * kCubic * x * x);
}

// ---- what is refused, and why. Empty: nothing

bool is_type(int32_t t) { return t == CUDA_R_32F || t == CUDA_R_16BF; }
std::string size_of(uint64_t rows, uint64_t columns) { return concat(rows, " x ", columns); }

std::string check_layout(const char* name, const Layout& l) {
    if (l.magic != kLayout) return concat("the layout of ", name, " was destroyed or never created");
    if (!is_type(l.type)) return concat(name, " is neither bf16 nor f32");
    if (l.order != CUBLASLT_ORDER_COL && l.order != CUBLASLT_ORDER_ROW) return concat(name, "'s order is neither by columns nor by rows");
    if (!l.rows || !l.columns) return concat(name, " is empty");
    if (l.ld < int64_t(l.inner())) return concat(name, "'s leading dimension ", l.ld, " is less than its ", l.inner(), l.by_row() ? " columns" : " rows");
    if (l.batch < 1) return concat(name, "'s batch count is ", l.batch);
    return "";
}
std::string check(const Problem& p, const Layout& a, const Layout& b, const Layout& c, const Layout& d) {
    if (p.magic != kProblem) return "the matmul descriptor was destroyed or never created";
    if (p.compute != CUBLAS_COMPUTE_32F || p.scale != CUDA_R_32F) return "computes in something else than CUBLAS_COMPUTE_32F with f32 scales, which is not emulated";
    if (p.pointers != CUBLASLT_POINTER_MODE_HOST && p.pointers != CUBLASLT_POINTER_MODE_DEVICE) return "a pointer mode that is not emulated";
    for (const auto& [name, l] : {std::pair("A", &a), {"B", &b}, {"C", &c}, {"D", &d}})
        if (const std::string why = check_layout(name, *l); !why.empty()) return why;
    for (const int32_t t : {p.trans_a, p.trans_b}) if (t != CUBLAS_OP_N && t != CUBLAS_OP_T) return "a transposition that is neither N nor T";
    if (a.type != b.type) return "A and B differ in type";
    if (c.type != d.type) return "C and D differ in type";
    if (a.type == CUDA_R_32F && d.type != CUDA_R_32F) return "A and B are f32 and D is not";
    const uint64_t m = p.trans_a ? a.columns : a.rows, k = p.trans_a ? a.rows : a.columns, k_b = p.trans_b ? b.columns : b.rows, n = p.trans_b ? b.rows : b.columns;
    if (k != k_b) return concat("op(A) is ", size_of(m, k), " and op(B) is ", size_of(k_b, n), ": the inner sizes differ");
    if (d.rows != m || d.columns != n) return concat("D is ", size_of(d.rows, d.columns), ", op(A) op(B) is ", size_of(m, n));
    if (c.rows != d.rows || c.columns != d.columns) return concat("C is ", size_of(c.rows, c.columns), ", D is ", size_of(d.rows, d.columns));
    if (c.order != d.order) return "C and D differ in order";
    if (a.batch != d.batch || b.batch != d.batch || c.batch != d.batch) return "batch counts differ";
    if (d.batch > 1 && d.stride < int64_t(d.outer() - 1) * d.ld + int64_t(d.inner())) return concat("matrices of D's batch overlap: they lie ", d.stride, " elements apart");
    if (!is_emulated(p.epilogue)) return concat("epilogue ", p.epilogue, " is unknown or not emulated");
    const Epilogue e(p.epilogue);
    if (p.epilogue != CUBLASLT_EPILOGUE_DEFAULT && d.by_row()) return "an epilogue with D by rows: not known to be supported";
    if ((e.bias || e.writes_bias()) && p.bias_type != -1 && p.bias_type != d.type) return "the bias must have D's type";
    if (e.writes_bias() && d.batch > 1) return "a bias gradient of a batch: not known to be supported";
    if (e.aux) {
        if (p.aux_type != -1 && p.aux_type != d.type) return "the auxiliary matrix must have D's type";
        if (p.aux_ld < int64_t(d.rows)) return concat("the auxiliary leading dimension ", p.aux_ld, " is less than D's ", d.rows, " rows");
        if (p.aux_ld % 8) return concat("the auxiliary leading dimension ", p.aux_ld, " is no multiple of 8");
        if (d.batch > 1 && p.aux_stride % 8) return "the auxiliary batch stride is no multiple of 8";
    }
    return "";
}
// All that an algorithm may depend on. The library accepts some of them for other problems too, and says nowhere which.
uint64_t number_of(const Problem& p, const Layout& a, const Layout& b, const Layout& d) {
    std::string all = concat(p.trans_a, " ", p.trans_b, " ", p.epilogue, " ", p.aux_ld);
    for (const Layout* l : {&a, &b, &d}) all += concat(", ", l->type, " ", l->order, " ", l->batch, " ", l->rows, " ", l->columns, " ", l->ld, " ", l->stride);
    return std::hash<std::string>()(all);
}
std::string check_pointer(const char* name, const void* p, size_t alignment) {
    if (!p) return concat(name, " is null");
    if (!on_device(find(p))) return concat(name, " is not device memory");
    if (uintptr_t(p) % alignment) return concat(name, " is not a multiple of ", alignment, " bytes, which its type or the heuristic's preference says");
    return "";
}

// ---- the work

bool touch_matrix(const void* p, const Layout& l, bool write) {
    bool may = true;
    for (int b = 0; b < l.batch; b++) {
        const char* begin = static_cast<const char*>(p) + b * l.stride * int64_t(l.element());
        if (l.ld == int64_t(l.inner())) may &= touch(running, begin, l.inner() * l.outer() * l.element(), write);
        else for (uint64_t j = 0; j < l.outer(); j++) may &= touch(running, begin + j * size_t(l.ld) * l.element(), l.inner() * l.element(), write);
    }
    return may;
}
float load(const void* p, size_t i, int32_t type) {
    if (type == CUDA_R_32F) return static_cast<const float*>(p)[i];
    return std::bit_cast<float>(uint32_t(static_cast<const uint16_t*>(p)[i]) << 16);
}
void store(void* p, size_t i, int32_t type, float v) {
    if (type == CUDA_R_32F) static_cast<float*>(p)[i] = v;
    else static_cast<uint16_t*>(p)[i] = bf16(v).bits;
}

struct Operands { const void *a, *b, *c; void* d; };

void compute(const Problem& p, const Layout& a, const Layout& b, const Layout& c, const Layout& d, const Operands& x, float alpha, float beta) {
    const uint64_t m = d.rows, n = d.columns, k = p.trans_a ? a.rows : a.columns;
    const Epilogue e(p.epilogue);
    const Layout aux{kLayout, p.aux_type == -1 ? d.type : p.aux_type, CUBLASLT_ORDER_COL, d.batch, m, n, p.aux_ld, p.aux_stride};
    const int32_t bias_type = d.type;
    const size_t bias_element = d.element(), biases = e.of_b ? n : m;
    bool may = touch_matrix(x.a, a, false) & touch_matrix(x.b, b, false);
    if (beta != 0) may &= touch_matrix(x.c, c, false);
    if (e.bias)
        for (int q = 0; q < d.batch; q++) may &= touch(running, static_cast<char*>(p.bias) + q * p.bias_stride * int64_t(bias_element), m * bias_element, false);
    if (e.writes_bias()) may &= touch(running, p.bias, biases * bias_element, true);
    if (e.aux) may &= touch_matrix(p.aux, aux, !e.dgelu);
    may &= touch_matrix(x.d, d, true);
    if (!may) return;

    std::vector<float> op_a(m * k), column(k), sum(m), bias_gradient(biases);
    for (int q = 0; q < d.batch; q++) {
        auto of_batch = [q](const void* matrix, const Layout& l) { return static_cast<const char*>(matrix) + q * l.stride * int64_t(l.element()); };
        const void *pa = of_batch(x.a, a), *pb = of_batch(x.b, b), *pc = x.c ? of_batch(x.c, c) : nullptr;
        void *pd = const_cast<char*>(of_batch(x.d, d)), *pe = p.aux ? const_cast<char*>(of_batch(p.aux, aux)) : nullptr;
        const void* bias = p.bias ? static_cast<char*>(p.bias) + q * p.bias_stride * int64_t(bias_element) : nullptr;
        for (uint64_t l = 0; l < k; l++) for (uint64_t i = 0; i < m; i++) op_a[l * m + i] = load(pa, p.trans_a ? a.index(l, i) : a.index(i, l), a.type);
        if (e.of_a) for (uint64_t l = 0; l < k; l++) for (uint64_t i = 0; i < m; i++) bias_gradient[i] += op_a[l * m + i];
        for (uint64_t j = 0; j < n; j++) {
            for (uint64_t l = 0; l < k; l++) column[l] = load(pb, p.trans_b ? b.index(j, l) : b.index(l, j), b.type);
            std::fill(sum.begin(), sum.end(), 0.0f);
            for (uint64_t l = 0; l < k; l++) {
                const float f = column[l];
                const float* from = &op_a[l * m];
                for (uint64_t i = 0; i < m; i++) sum[i] += from[i] * f;
            }
            if (e.of_b) for (uint64_t l = 0; l < k; l++) bias_gradient[j] += column[l];
            for (uint64_t i = 0; i < m; i++) {
                float v = alpha * sum[i];
                if (beta != 0) v += beta * load(pc, c.index(i, j), c.type);
                if (e.bias) v += load(bias, i, bias_type);
                if (e.gelu) {
                    if (e.aux) store(pe, aux.index(i, j), aux.type, v);
                    v = gelu(v);
                }
                if (e.dgelu) v *= gelu_slope(load(pe, aux.index(i, j), aux.type));
                if (e.bias_gradient) bias_gradient[i] += v;
                store(pd, d.index(i, j), d.type, v);
            }
        }
    }
    if (e.writes_bias()) for (uint64_t i = 0; i < biases; i++) store(p.bias, i, bias_type, bias_gradient[i]);
}

}
}

using namespace merv::emulated_runtime;
using merv::concat;

extern "C" {

struct cublasLtContext { int unused; };

cublasStatus_t cublasLtCreate(cublasLtHandle_t* handle) {
    return call(__func__, [&] { return *handle = new cublasLtContext{}, CUBLAS_STATUS_SUCCESS; });
}
cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle) {
    return call(__func__, [&] { return delete handle, CUBLAS_STATUS_SUCCESS; });
}
const char* cublasLtGetStatusName(cublasStatus_t s) {
    switch (s) {
        case CUBLAS_STATUS_SUCCESS: return "CUBLAS_STATUS_SUCCESS";
        case CUBLAS_STATUS_NOT_INITIALIZED: return "CUBLAS_STATUS_NOT_INITIALIZED";
        case CUBLAS_STATUS_ALLOC_FAILED: return "CUBLAS_STATUS_ALLOC_FAILED";
        case CUBLAS_STATUS_INVALID_VALUE: return "CUBLAS_STATUS_INVALID_VALUE";
        case CUBLAS_STATUS_EXECUTION_FAILED: return "CUBLAS_STATUS_EXECUTION_FAILED";
        case CUBLAS_STATUS_NOT_SUPPORTED: return "CUBLAS_STATUS_NOT_SUPPORTED";
        default: return "a status that the emulated cublasLt has no name for";
    }
}
const char* cublasLtGetStatusString(cublasStatus_t s) { return cublasLtGetStatusName(s); }
size_t cublasLtGetVersion() { return CUBLAS_VERSION; }

// ---- descriptors

cublasStatus_t cublasLtMatmulDescInit_internal(cublasLtMatmulDesc_t d, size_t, cublasComputeType_t compute, cudaDataType_t scale) {
    Problem p;
    p.compute = compute, p.scale = scale;
    return put(d, p);
}
cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t* d, cublasComputeType_t compute, cudaDataType_t scale) {
    return call(__func__, [&] { return cublasLtMatmulDescInit_internal(*d = new cublasLtMatmulDescOpaque_t, sizeof **d, compute, scale); });
}
cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t d) {
    return call(__func__, [&] { return destroy(d); });
}
cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t d, cublasLtMatmulDescAttributes_t a, const void* value, size_t bytes) {
    return call(__func__, [&] {
        Problem p = get<Problem>(d);
        const cublasStatus_t s = set("cublasLtMatmulDescSetAttribute", field_of(p, a), a, value, bytes);
        return s == CUBLAS_STATUS_SUCCESS ? put(d, p) : s;
    });
}
cublasStatus_t cublasLtMatmulDescGetAttribute(cublasLtMatmulDesc_t d, cublasLtMatmulDescAttributes_t a, void* value, size_t bytes, size_t* written) {
    return call(__func__, [&] {
        Problem p = get<Problem>(d);
        const Field field = field_of(p, a);
        if (written) *written = field.bytes;
        if (!field.at || bytes < field.bytes) return bytes || !field.at ? refuse("cublasLtMatmulDescGetAttribute", concat("attribute ", int(a), " is not emulated or of another size")) : CUBLAS_STATUS_SUCCESS;
        return std::memcpy(value, field.at, field.bytes), CUBLAS_STATUS_SUCCESS;
    });
}

cublasStatus_t cublasLtMatrixLayoutInit_internal(cublasLtMatrixLayout_t l, size_t, cudaDataType type, uint64_t rows, uint64_t columns, int64_t ld) {
    Layout layout;
    layout.type = type, layout.rows = rows, layout.columns = columns, layout.ld = ld;
    return put(l, layout);
}
cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t* l, cudaDataType type, uint64_t rows, uint64_t columns, int64_t ld) {
    return call(__func__, [&] { return cublasLtMatrixLayoutInit_internal(*l = new cublasLtMatrixLayoutOpaque_t, sizeof **l, type, rows, columns, ld); });
}
cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t l) {
    return call(__func__, [&] { return destroy(l); });
}
cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t l, cublasLtMatrixLayoutAttribute_t a, const void* value, size_t bytes) {
    return call(__func__, [&] {
        Layout layout = get<Layout>(l);
        const cublasStatus_t s = set("cublasLtMatrixLayoutSetAttribute", field_of(layout, a), a, value, bytes);
        return s == CUBLAS_STATUS_SUCCESS ? put(l, layout) : s;
    });
}

cublasStatus_t cublasLtMatmulPreferenceInit_internal(cublasLtMatmulPreference_t p, size_t) { return put(p, Preference{}); }
cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t* p) {
    return call(__func__, [&] { return put(*p = new cublasLtMatmulPreferenceOpaque_t, Preference{}); });
}
cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t p) {
    return call(__func__, [&] { return destroy(p); });
}
cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t p, cublasLtMatmulPreferenceAttributes_t a, const void* value, size_t bytes) {
    return call(__func__, [&] {
        Preference preference = get<Preference>(p);
        const cublasStatus_t s = set("cublasLtMatmulPreferenceSetAttribute", field_of(preference, a), a, value, bytes);
        return s == CUBLAS_STATUS_SUCCESS ? put(p, preference) : s;
    });
}

// ---- products

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t handle, cublasLtMatmulDesc_t problem, cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t preference, int wanted, cublasLtMatmulHeuristicResult_t results[], int* found) {
    return call(__func__, [&] {
        const char* self = "cublasLtMatmulAlgoGetHeuristic";
        *found = 0;
        if (!handle || wanted < 1) return refuse(self, "no handle, or no result is asked for");
        if (const std::string why = check(get<Problem>(problem), get<Layout>(a), get<Layout>(b), get<Layout>(c), get<Layout>(d)); !why.empty()) return refuse(self, why, CUBLAS_STATUS_NOT_SUPPORTED);
        const Preference p = get<Preference>(preference);
        if (p.magic != kPreference) return refuse(self, "the preference was destroyed or never created");
        if (const Epilogue e(get<Problem>(problem).epilogue); (e.bias && !get<Problem>(problem).bias) || (e.aux && !get<Problem>(problem).aux))
            return refuse(self, "the bias is null, or the auxiliary matrix, whose alignment the heuristic looks at", CUBLAS_STATUS_NOT_SUPPORTED);
        Algorithm algorithm;
        std::copy_n(p.alignment, 4, algorithm.alignment);
        algorithm.workspace = std::min(p.workspace, kWorkspace);
        algorithm.problem = number_of(get<Problem>(problem), get<Layout>(a), get<Layout>(b), get<Layout>(d));
        cublasLtMatmulHeuristicResult_t r{};
        put(&r.algo, algorithm);
        r.workspaceSize = algorithm.workspace, r.state = CUBLAS_STATUS_SUCCESS, r.wavesCount = 1;
        return *results = r, *found = 1, CUBLAS_STATUS_SUCCESS;
    });
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t problem, const void* alpha, const void* a, cublasLtMatrixLayout_t a_layout, const void* b, cublasLtMatrixLayout_t b_layout, const void* beta,
                              const void* c, cublasLtMatrixLayout_t c_layout, void* d, cublasLtMatrixLayout_t d_layout, const cublasLtMatmulAlgo_t* algo, void* workspace, size_t workspace_bytes, cudaStream_t stream) {
    return call(__func__, [&] {
        const Problem p = get<Problem>(problem);
        const Layout la = get<Layout>(a_layout), lb = get<Layout>(b_layout), lc = get<Layout>(c_layout), ld = get<Layout>(d_layout);
        const Algorithm algorithm = algo ? get<Algorithm>(algo) : Algorithm{};
        auto why = [&]() -> std::string {
            if (!handle || !alpha || !beta) return "no handle, alpha or beta";
            if (algorithm.magic != kAlgorithm) return "the algorithm does not come from cublasLtMatmulAlgoGetHeuristic";
            if (const std::string w = check(p, la, lb, lc, ld); !w.empty()) return w;
            if (algo && algorithm.problem != number_of(p, la, lb, ld)) return "the algorithm was chosen for another problem";
            const bool reads_c = p.pointers == CUBLASLT_POINTER_MODE_DEVICE || *static_cast<const float*>(beta) != 0;
            std::pair<const char*, const void*> operands[] = {{"A", a}, {"B", b}, {"C", c}, {"D", d}};
            for (int i = 0; i < 4; i++)
                if (i != 2 || reads_c)
                    if (const std::string w = check_pointer(operands[i].first, operands[i].second, algorithm.alignment[i]); !w.empty()) return w;
            const Epilogue e(p.epilogue);
            if (e.bias || e.writes_bias())
                if (const std::string w = check_pointer("the bias", p.bias, ld.element()); !w.empty()) return w;
            if (e.aux)
                if (const std::string w = check_pointer("the auxiliary matrix", p.aux, 16); !w.empty()) return w;
            if (algorithm.workspace > workspace_bytes) return concat("the workspace has ", workspace_bytes, " bytes, the algorithm needs ", algorithm.workspace);
            if (algorithm.workspace)
                if (const std::string w = check_pointer("the workspace", workspace, 16); !w.empty()) return w;
            return "";
        }();
        if (!why.empty()) return refuse("cublasLtMatmul", why);
        const bool on_host = p.pointers == CUBLASLT_POINTER_MODE_HOST;
        const float host_alpha = on_host ? *static_cast<const float*>(alpha) : 0, host_beta = on_host ? *static_cast<const float*>(beta) : 0;
        issue(stream_of(stream), "cublasLtMatmul", [=] {
            float scales[2] = {host_alpha, host_beta};
            if (!on_host) {
                if (!touch(running, alpha, sizeof(float), false) || !touch(running, beta, sizeof(float), false)) return;
                scales[0] = *static_cast<const float*>(alpha), scales[1] = *static_cast<const float*>(beta);
            }
            if (algorithm.workspace && touch(running, workspace, algorithm.workspace, true)) std::memset(workspace, 0xff, algorithm.workspace);
            compute(p, la, lb, lc, ld, {a, b, c, d}, scales[0], scales[1]);
        });
        return CUBLAS_STATUS_SUCCESS;
    });
}

}
