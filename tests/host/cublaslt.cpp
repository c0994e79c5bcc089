// cublasLt as emulated against its documented formula in double, and wrong calls of it.
#include <cublasLt.h>
#include <bit>
#include <random>
#include "core/dtype.h"
#include "tests/host/cuda.h"

namespace merv::test {
namespace {

struct Matrix {                                 // of a batch, with gaps of NaN below its leading dimension
    int rows, columns;
    cudaDataType type;
    bool by_row;
    int ld, batch;
    std::vector<double> value;                  // [batch, rows, columns]
    void* data = nullptr;

    int64_t outer() const { return by_row ? rows : columns; }
    int64_t stride() const { return outer() * ld + 8; }
    size_t element() const { return type == CUDA_R_16BF ? 2 : 4; }
    double& at(int b, int i, int j) { return value[size_t((b * rows + i) * columns + j)]; }
    size_t index(int b, int i, int j) const { return size_t(b * stride() + (by_row ? int64_t(i) * ld + j : int64_t(j) * ld + i)); }
    size_t elements() const { return size_t(batch - 1) * size_t(stride()) + size_t(outer() * ld); }
};
std::mt19937 generator(3);

Matrix matrix(int rows, int columns, cudaDataType type, bool by_row = false, int gap = 0, int batch = 1) {
    Matrix m{rows, columns, type, by_row, (by_row ? columns : rows) + gap, batch, std::vector<double>(size_t(batch * rows * columns)), nullptr};
    std::vector<uint32_t> raw(m.elements() + 1, ~0u);
    for (int b = 0; b < batch; b++)
        for (int i = 0; i < rows; i++)
            for (int j = 0; j < columns; j++) {
                const bf16 v(float(std::normal_distribution<double>()(generator)));      // exact in either type
                m.at(b, i, j) = double(float(v));
                if (type == CUDA_R_16BF) std::memcpy(reinterpret_cast<char*>(raw.data()) + m.index(b, i, j) * 2, &v.bits, 2);
                else raw[m.index(b, i, j)] = std::bit_cast<uint32_t>(float(v));
            }
    m.data = device<char>(m.elements() * m.element());
    cudaMemcpy(m.data, raw.data(), m.elements() * m.element(), cudaMemcpyHostToDevice);
    cudaDeviceSynchronize();
    return m;
}
struct Contents { std::vector<double> value; bool gaps_untouched = true; };
Contents contents(const Matrix& m) {
    std::vector<uint32_t> raw(m.elements() + 1);
    cudaMemcpy(raw.data(), m.data, m.elements() * m.element(), cudaMemcpyDeviceToHost);
    const auto* half = reinterpret_cast<const uint16_t*>(raw.data());
    std::vector<bool> inside(m.elements());
    Contents c;
    for (int b = 0; b < m.batch; b++)
        for (int i = 0; i < m.rows; i++)
            for (int j = 0; j < m.columns; j++) {
                const size_t k = m.index(b, i, j);
                inside[k] = true;
                c.value.push_back(double(std::bit_cast<float>(m.type == CUDA_R_16BF ? uint32_t(half[k]) << 16 : raw[k])));
            }
    for (size_t k = 0; k < inside.size(); k++) c.gaps_untouched &= inside[k] || (m.type == CUDA_R_16BF ? half[k] == 0xffff : raw[k] == ~0u);
    return c;
}

struct Call {                                   // of cublasLtMatmul, with all that a test may spoil
    bool trans_a = false, trans_b = false;
    uint32_t epilogue = CUBLASLT_EPILOGUE_DEFAULT;
    void *bias = nullptr, *aux = nullptr;
    int64_t aux_ld = 0, aux_stride = 0;
    float alpha = 1, beta = 0;
    void* workspace = nullptr;
    size_t workspace_bytes = 0;
    cudaStream_t stream = nullptr;
    int32_t bias_type = -1;
    uint32_t alignment = 16;
    uint64_t promised_workspace = 0;            // to the heuristic; 0: as much as there is
    int attribute_bytes = 4;
    bool foreign_algorithm = false;
    bool late_epilogue = false;                 // set when the heuristic has been asked
    cublasComputeType_t compute = CUBLAS_COMPUTE_32F;
};
cublasStatus_t matmul(const Call& call, const Matrix& a, const Matrix& b, const Matrix& d) {
    static const cublasLtHandle_t handle = [] {
        cublasLtHandle_t h;
        cublasLtCreate(&h);
        return h;
    }();
    cublasLtMatmulDesc_t problem;
    cublasLtMatmulDescCreate(&problem, call.compute, CUDA_R_32F);
    cublasStatus_t status = CUBLAS_STATUS_SUCCESS;
    auto must = [&](cublasStatus_t s) { if (status == CUBLAS_STATUS_SUCCESS) status = s; };
    auto set = [&](cublasLtMatmulDescAttributes_t attribute, const auto& value) { must(cublasLtMatmulDescSetAttribute(problem, attribute, &value, sizeof value)); };
    const int32_t trans[] = {call.trans_a ? CUBLAS_OP_T : CUBLAS_OP_N, call.trans_b ? CUBLAS_OP_T : CUBLAS_OP_N};
    must(cublasLtMatmulDescSetAttribute(problem, CUBLASLT_MATMUL_DESC_TRANSA, &trans[0], size_t(call.attribute_bytes)));
    set(CUBLASLT_MATMUL_DESC_TRANSB, trans[1]);
    set(CUBLASLT_MATMUL_DESC_EPILOGUE, call.late_epilogue ? uint32_t(CUBLASLT_EPILOGUE_DEFAULT) : call.epilogue);
    set(CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, call.bias_type);
    if (call.bias) set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, call.bias);
    if (call.aux) {
        set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, call.aux);
        set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, call.aux_ld);
        set(CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_BATCH_STRIDE, call.aux_stride);
    }
    auto layout = [&](const Matrix& m) {
        cublasLtMatrixLayout_t l;
        cublasLtMatrixLayoutCreate(&l, m.type, uint64_t(m.rows), uint64_t(m.columns), m.ld);
        const int32_t order = m.by_row ? CUBLASLT_ORDER_ROW : CUBLASLT_ORDER_COL, batch = m.batch;
        const int64_t stride = m.stride();
        must(cublasLtMatrixLayoutSetAttribute(l, CUBLASLT_MATRIX_LAYOUT_ORDER, &order, sizeof order));
        must(cublasLtMatrixLayoutSetAttribute(l, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &batch, sizeof batch));
        must(cublasLtMatrixLayoutSetAttribute(l, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &stride, sizeof stride));
        return l;
    };
    const cublasLtMatrixLayout_t la = layout(a), lb = layout(b), ld = layout(d);
    cublasLtMatmulPreferenceOpaque_t preference;
    must(cublasLtMatmulPreferenceInit(&preference));
    const uint64_t workspace = call.promised_workspace ? call.promised_workspace : call.workspace_bytes;
    must(cublasLtMatmulPreferenceSetAttribute(&preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace, sizeof workspace));
    for (const auto attribute : {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES})
        must(cublasLtMatmulPreferenceSetAttribute(&preference, attribute, &call.alignment, sizeof call.alignment));
    cublasLtMatmulHeuristicResult_t result{};
    int found = 0;
    if (status == CUBLAS_STATUS_SUCCESS) must(cublasLtMatmulAlgoGetHeuristic(handle, problem, la, lb, ld, ld, &preference, 1, &result, &found));
    if (call.foreign_algorithm) result = {};
    set(CUBLASLT_MATMUL_DESC_EPILOGUE, call.epilogue);
    if (status == CUBLAS_STATUS_SUCCESS)
        must(cublasLtMatmul(handle, problem, &call.alpha, a.data, la, b.data, lb, &call.beta, d.data, ld, d.data, ld, &result.algo, call.workspace, call.workspace_bytes, call.stream));
    for (const cublasLtMatrixLayout_t l : {la, lb, ld}) cublasLtMatrixLayoutDestroy(l);
    cublasLtMatmulDescDestroy(problem);
    return status;
}

double gelu(double x) { return 0.5 * x * (1 + std::tanh(std::sqrt(2 / std::acos(-1.0)) * (x + 0.044715 * x * x * x))); }
double gelu_slope(double x) {
    const double h = 1e-5;
    return (gelu(x + h) - gelu(x - h)) / (2 * h);
}

struct Types { cudaDataType in, out; };
constexpr uint32_t epilogues[] = {CUBLASLT_EPILOGUE_DEFAULT, CUBLASLT_EPILOGUE_BIAS, CUBLASLT_EPILOGUE_GELU, CUBLASLT_EPILOGUE_GELU_BIAS, CUBLASLT_EPILOGUE_GELU_AUX, CUBLASLT_EPILOGUE_GELU_AUX_BIAS,
                                  CUBLASLT_EPILOGUE_DGELU, CUBLASLT_EPILOGUE_DGELU_BGRAD, CUBLASLT_EPILOGUE_BGRADA, CUBLASLT_EPILOGUE_BGRADB};

// Whether the product is right: within a rounding of D's type, and with its gaps as they were
bool is_right(Types types, bool trans_a, bool trans_b, bool a_by_row, bool b_by_row, bool d_by_row, int gap, int batch, uint32_t epilogue, const Matrix& space, cudaStream_t stream) {
    constexpr int m = 24, n = 16, k = 40;
    Matrix a = trans_a ? matrix(k, m, types.in, a_by_row, gap, batch) : matrix(m, k, types.in, a_by_row, gap, batch);
    Matrix b = trans_b ? matrix(n, k, types.in, b_by_row, gap, batch) : matrix(k, n, types.in, b_by_row, gap, batch);
    Matrix d = matrix(m, n, types.out, d_by_row, gap, batch), aux = matrix(m, n, types.out, false, 8, batch), bias = matrix(epilogue == CUBLASLT_EPILOGUE_BGRADB ? n : m, 1, types.out);
    const std::vector<double> bias_before = bias.value, aux_before = aux.value;
    std::vector<double> want = d.value, want_aux = aux.value, want_bias = bias.value;
    const bool adds_bias = epilogue & CUBLASLT_EPILOGUE_BIAS, gives_bias = epilogue == CUBLASLT_EPILOGUE_DGELU_BGRAD || epilogue == CUBLASLT_EPILOGUE_BGRADA || epilogue == CUBLASLT_EPILOGUE_BGRADB;
    const bool has_aux = epilogue & 128, is_gelu = epilogue & CUBLASLT_EPILOGUE_GELU, is_slope = epilogue == CUBLASLT_EPILOGUE_DGELU || epilogue == CUBLASLT_EPILOGUE_DGELU_BGRAD;
    const double alpha = 0.25, beta = epilogue == CUBLASLT_EPILOGUE_DEFAULT ? 0.5 : 0;
    if (gives_bias) std::fill(want_bias.begin(), want_bias.end(), 0.0);
    for (int q = 0; q < batch; q++)
        for (int i = 0; i < m; i++)
            for (int j = 0; j < n; j++) {
                const size_t at = size_t((q * m + i) * n + j);
                double v = 0;
                for (int l = 0; l < k; l++) {
                    const double x = trans_a ? a.at(q, l, i) : a.at(q, i, l), y = trans_b ? b.at(q, j, l) : b.at(q, l, j);
                    v += x * y;
                    if (epilogue == CUBLASLT_EPILOGUE_BGRADA && j == 0) want_bias[size_t(i)] += x;
                    if (epilogue == CUBLASLT_EPILOGUE_BGRADB && i == 0) want_bias[size_t(j)] += y;
                }
                v = alpha * v + beta * d.value[at] + (adds_bias ? bias_before[size_t(i)] : 0);
                if (is_gelu && has_aux) want_aux[at] = v;
                if (is_gelu) v = gelu(v);
                if (is_slope) v *= gelu_slope(aux_before[at]);
                if (epilogue == CUBLASLT_EPILOGUE_DGELU_BGRAD) want_bias[size_t(i)] += v;
                want[at] = v;
            }
    Call call;
    call.trans_a = trans_a, call.trans_b = trans_b, call.epilogue = epilogue, call.alpha = float(alpha), call.beta = float(beta), call.stream = stream;
    call.workspace = space.data, call.workspace_bytes = size_t(space.rows) * 4;
    if (adds_bias || gives_bias) call.bias = bias.data;
    if (has_aux) call.aux = aux.data, call.aux_ld = aux.ld, call.aux_stride = aux.stride();
    bool right = matmul(call, a, b, d) == CUBLAS_STATUS_SUCCESS;
    cudaStreamSynchronize(stream);
    auto near = [&](const Matrix& of, const std::vector<double>& wanted) {
        const Contents c = contents(of);
        const double ulp = of.type == CUDA_R_16BF ? 1.0 / 256 : 1.0 / (1 << 23), rounding = 40.0 * 8 / (1 << 23);      // of the result; of the sums, in f32
        bool all = c.gaps_untouched;
        for (size_t i = 0; i < wanted.size(); i++) all &= std::abs(c.value[i] - wanted[i]) <= ulp * std::abs(wanted[i]) + rounding;
        return all;
    };
    right &= near(d, want) && near(aux, want_aux) && near(bias, want_bias);
    for (const Matrix* x : {&a, &b, &d, &aux, &bias}) cudaFree(x->data);
    return right;
}

TEST_CASE("emulated runtime: cublasLt computes its formula") {
    int cases = 0, wrong = 0;
    const auto reports = reports_of(Policy::late, 1, [&] {
        const cudaStream_t stream = new_stream();
        const Matrix space = matrix(4096, 1, CUDA_R_32F);
        for (const Types types : {Types{CUDA_R_16BF, CUDA_R_16BF}, {CUDA_R_16BF, CUDA_R_32F}, {CUDA_R_32F, CUDA_R_32F}})
            for (int trans = 0; trans < 4; trans++)
                for (int orders = 0; orders < 8; orders++)
                    for (const int gap : {0, 8})
                        for (const int batch : {1, 3})
                            for (const uint32_t epilogue : epilogues) {
                                const bool d_by_row = orders & 4, gives_bias = epilogue == CUBLASLT_EPILOGUE_DGELU_BGRAD || epilogue == CUBLASLT_EPILOGUE_BGRADA || epilogue == CUBLASLT_EPILOGUE_BGRADB;
                                if ((d_by_row && epilogue != CUBLASLT_EPILOGUE_DEFAULT) || (batch > 1 && gives_bias)) continue;      // refused
                                cases++;
                                if (is_right(types, trans & 1, trans & 2, orders & 1, orders & 2, d_by_row, gap, batch, epilogue, space, stream)) continue;
                                if (!wrong++) MESSAGE("wrong: types ", types.in, " ", types.out, ", transposed ", trans, ", orders ", orders, ", gap ", gap, ", batch ", batch, ", epilogue ", epilogue);
                            }
    });
    MESSAGE(cases, " products");
    EXPECT_GT(cases, 1000);
    EXPECT_EQ(wrong, 0);
    EXPECT_MESSAGE(reports.empty(), text_of(reports));
}

// ---- y[T, O] = x[T, C] W[O, C]^T + bias as an engine of row-major tensors calls it: by columns, y^T = W x^T

enum class Bug {
    none, not_transposed, not_transposed_square, swapped, swapped_square, short_ld, no_bias_pointer, unknown_epilogue, bias_type, bias_too_short, bias_forgotten, no_aux_ld, odd_aux_ld,
    small_workspace, shared_workspace, workspace_on_host, operand_on_host, less_aligned, foreign_algorithm, others_algorithm, attribute_size, other_types, no_c, operand_too_small, output_too_small,
    by_row_epilogue, compute_type, not_waited_for,
};
struct Mistake { Bug bug; std::string name, kind, says; };    // kind WRONG: only the values show it
const Mistake mistakes[] = {
    {Bug::not_transposed, "transposition forgotten", "CUBLAS", "inner sizes differ"},
    {Bug::not_transposed_square, "transposition forgotten, all sizes equal", "WRONG", ""},
    {Bug::swapped, "operands swapped", "CUBLAS", "op(A) op(B) is"},
    {Bug::swapped_square, "operands swapped, all sizes equal", "WRONG", ""},
    {Bug::short_ld, "leading dimension too short", "CUBLAS", "leading dimension"},
    {Bug::no_bias_pointer, "bias epilogue without a bias", "CUBLAS", "the bias is null"},
    {Bug::unknown_epilogue, "unknown epilogue", "CUBLAS", "epilogue"},
    {Bug::bias_type, "bias of another type than D", "CUBLAS", "D's type"},
    {Bug::bias_too_short, "bias shorter than D has rows", "OOB", "reads"},
    {Bug::bias_forgotten, "epilogue without bias", "WRONG", ""},
    {Bug::no_aux_ld, "auxiliary matrix without leading dimension", "CUBLAS", "auxiliary leading dimension"},
    {Bug::odd_aux_ld, "auxiliary leading dimension no multiple of 8", "CUBLAS", "multiple of 8"},
    {Bug::small_workspace, "workspace smaller than promised", "CUBLAS", "workspace has"},
    {Bug::shared_workspace, "one workspace for two streams", "RACE", "cublasLtMatmul"},
    {Bug::workspace_on_host, "workspace in pinned memory", "CUBLAS", "the workspace is not device memory"},
    {Bug::operand_on_host, "operand in pinned memory", "CUBLAS", "B is not device memory"},
    {Bug::less_aligned, "operand less aligned than promised", "CUBLAS", "not a multiple of"},
    {Bug::foreign_algorithm, "algorithm that no heuristic gave", "CUBLAS", "does not come from"},
    {Bug::others_algorithm, "algorithm chosen before the epilogue was set", "CUBLAS", "another problem"},
    {Bug::attribute_size, "attribute of the wrong size", "CUBLAS", "bytes, not"},
    {Bug::other_types, "A and B of two types", "CUBLAS", "differ in type"},
    {Bug::no_c, "beta = 1 onto a new output", "WRONG", ""},
    {Bug::operand_too_small, "operand smaller than its layout", "OOB", "reads"},
    {Bug::output_too_small, "output smaller than its layout", "OOB", "writes"},
    {Bug::by_row_epilogue, "bias with D by rows", "CUBLAS", "by rows"},
    {Bug::compute_type, "sums in f16", "CUBLAS", "CUBLAS_COMPUTE_32F"},
    {Bug::not_waited_for, "product read by another stream", "RACE", "cublasLtMatmul"},
};

bool linear_is_right(Bug bug) {
    const bool square = bug == Bug::not_transposed_square || bug == Bug::swapped_square;
    const int T = 16, C = square ? 16 : 24, O = square ? 16 : 32;
    const cudaStream_t stream = new_stream(), other = new_stream();
    const Matrix space = matrix(4096, 1, CUDA_R_32F);
    Matrix w = matrix(C, O, CUDA_R_16BF), x = matrix(C, T, CUDA_R_16BF), y = matrix(O, T, CUDA_R_16BF), z = matrix(O, T, CUDA_R_16BF), bias = matrix(bug == Bug::bias_too_short ? O / 2 : O, 1, CUDA_R_16BF);
    bias.value.resize(size_t(O));
    const auto transposed = w, input = x;       // for the expectation
    Call call;
    call.trans_a = bug != Bug::not_transposed && bug != Bug::not_transposed_square;
    call.epilogue = bug == Bug::bias_forgotten ? uint32_t(CUBLASLT_EPILOGUE_DEFAULT) : bug == Bug::unknown_epilogue ? 77u : uint32_t(CUBLASLT_EPILOGUE_BIAS);
    call.bias = bug == Bug::no_bias_pointer ? nullptr : bias.data;
    call.workspace = space.data, call.workspace_bytes = 1 << 14, call.stream = stream;
    if (bug == Bug::bias_type) call.bias_type = CUDA_R_32F;
    if (bug == Bug::no_aux_ld || bug == Bug::odd_aux_ld) call.epilogue = CUBLASLT_EPILOGUE_GELU_AUX_BIAS, call.aux = device(1 << 14), call.aux_ld = bug == Bug::odd_aux_ld ? O + 1 : 0;
    if (bug == Bug::small_workspace) call.promised_workspace = 1 << 20, call.workspace_bytes = 64;
    if (bug == Bug::workspace_on_host) call.workspace = pinned(1 << 12);
    if (bug == Bug::operand_on_host) x.data = pinned(1 << 12);
    if (bug == Bug::less_aligned) x.data = static_cast<char*>(x.data) + 2;
    if (bug == Bug::attribute_size) call.attribute_bytes = 8;
    if (bug == Bug::other_types) w.type = CUDA_R_32F;
    if (bug == Bug::no_c) call.beta = 1, y.data = device<bf16>(size_t(O * T));
    if (bug == Bug::short_ld) w.ld = x.ld = C - 8;
    if (bug == Bug::operand_too_small) x.data = device<bf16>(size_t(C * T) - 1);
    if (bug == Bug::output_too_small) y.data = device<bf16>(size_t(O * T) - 1);
    if (bug == Bug::by_row_epilogue) y.by_row = true, y.ld = T;
    if (bug == Bug::compute_type) call.compute = CUBLAS_COMPUTE_16F;
    call.late_epilogue = bug == Bug::others_algorithm;
    call.foreign_algorithm = bug == Bug::foreign_algorithm;
    const bool swapped = bug == Bug::swapped || bug == Bug::swapped_square;
    const bool done = matmul(call, swapped ? x : w, swapped ? w : x, y) == CUBLAS_STATUS_SUCCESS;
    if (bug == Bug::shared_workspace) {
        call.stream = other;
        matmul(call, w, x, z);
    }
    if (bug == Bug::not_waited_for) cudaMemcpyAsync(device<bf16>(size_t(O * T)), y.data, size_t(O * T) * 2, cudaMemcpyDeviceToDevice, other);
    cudaDeviceSynchronize();
    const Contents got = contents(bug == Bug::output_too_small ? w : y);
    bool right = done && bug != Bug::output_too_small;
    for (int t = 0; t < T; t++)
        for (int o = 0; o < O; o++) {
            double v = bias.value[size_t(o)];
            for (int c = 0; c < C; c++) v += transposed.value[size_t(c * O + o)] * input.value[size_t(c * T + t)];
            right &= std::abs(got.value[size_t(o * T + t) % got.value.size()] - v) <= std::abs(v) / 256 + 1e-4;
        }
    return right;
}

TEST_CASE("emulated runtime: wrong calls of cublasLt are reported with the reason") {
    for (const Policy policy : {Policy::late, Policy::eager, Policy::random}) {
        bool right = false;
        const auto reports = reports_of(policy, 1, [&] { right = linear_is_right(Bug::none); });
        EXPECT_MESSAGE(reports.empty(), text_of(reports));
        EXPECT(right);
        for (const Mistake& m : mistakes) {
            const auto found = reports_of(policy, 1, [&] { right = linear_is_right(m.bug); });
            if (m.kind == "WRONG") EXPECT_MESSAGE((found.empty() && !right), m.name, ", ", name_of(policy), text_of(found));
            else {
                EXPECT_MESSAGE(has_kind(found, m.kind), m.name, ", ", name_of(policy), ": not reported as ", m.kind, text_of(found));
                EXPECT_SAYS(text_of(found), m.says);
            }
        }
    }
}

}
}
