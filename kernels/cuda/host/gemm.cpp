// cuBLASLt computes column-major: its D is y^T (N x M), its A is b and its B is a. A row-major matrix that lies along k is a column-major
// one of k rows, which is to be transposed where it stands for b.
#include "kernels/cuda/host/gemm.h"
#include <array>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <cublasLt.h>
#include "core/check.h"
#include "kernels/cuda/host/stream.h"

namespace merv {
namespace {

constexpr size_t kWorkspace = size_t(32) << 20;             // what NVIDIA recommends for Hopper

[[noreturn]] void failed(const std::string& what, const char* call, cublasStatus_t s) { fail(Exit::device, what, ": ", call, ": ", cublasLtGetStatusString(s)); }
std::string named(const Gemm& g) { return concat(g.name, " at ", g.file, ":", g.line); }

// One of cuBLASLt's descriptors
template <class T, cublasStatus_t destroy(T)> class Handle {
  public:
    template <class Create, class... A> Handle(const Gemm& g, Create create, A... a) {
        if (const cublasStatus_t s = create(&handle_, a...); s != CUBLAS_STATUS_SUCCESS) failed(named(g), "cuBLASLt's descriptor", s);
    }
    ~Handle() { destroy(handle_); }
    Handle(const Handle&) = delete;
    Handle& operator=(const Handle&) = delete;
    operator T() const { return handle_; }

  private:
    T handle_{};
};
using Descriptor = Handle<cublasLtMatmulDesc_t, cublasLtMatmulDescDestroy>;
using Layout = Handle<cublasLtMatrixLayout_t, cublasLtMatrixLayoutDestroy>;
using Preference = Handle<cublasLtMatmulPreference_t, cublasLtMatmulPreferenceDestroy>;

cudaDataType_t cuda_type(DType t) {
    CHECK(t == DType::f32 || t == DType::bf16, "a product of ", name_of(t));
    return t == DType::f32 ? CUDA_R_32F : CUDA_R_16BF;
}
cublasLtHandle_t library() {
    static const cublasLtHandle_t handle = [] {
        cublasLtHandle_t h = nullptr;
        if (const cublasStatus_t s = cublasLtCreate(&h); s != CUBLAS_STATUS_SUCCESS) failed("cuBLASLt", "cublasLtCreate", s);
        return h;
    }();
    return handle;
}

// Everything an algorithm depends on
using Key = std::array<int64_t, 10>;
Key key_of(const Gemm& g) {
    return {int64_t(g.type), int64_t(g.y_type), g.a_along_k, g.b_along_k, g.M, g.N, g.K, g.lda, g.ldb, (g.bias ? 1 : 0) + (g.add ? 2 : 0) + (g.gelu_tanh ? 4 : 0) + (g.z ? 8 : 0)};
}
// A product but for its pointers; all products of one key use it in turn.
struct Plan {
    Descriptor product;
    Layout a, b, d;
    std::optional<cublasLtMatmulAlgo_t> algorithm;          // none: refused
    explicit Plan(const Gemm&);
    void point_at_rows(const Gemm&) const;      // the descriptor has pointers to bias and z, which cublasLtMatmul reads before it returns
    void set(const Gemm& g, cublasLtMatmulDescAttributes_t what, const auto& value) const {
        if (const cublasStatus_t s = cublasLtMatmulDescSetAttribute(product, what, &value, sizeof value); s != CUBLAS_STATUS_SUCCESS) failed(named(g), "cublasLtMatmulDescSetAttribute", s);
    }
};
Plan::Plan(const Gemm& g)
    : product(g, cublasLtMatmulDescCreate, CUBLAS_COMPUTE_32F, CUDA_R_32F),
      a(g, cublasLtMatrixLayoutCreate, cuda_type(g.type), uint64_t(g.b_along_k ? g.K : g.N), uint64_t(g.b_along_k ? g.N : g.K), g.ldb),
      b(g, cublasLtMatrixLayoutCreate, cuda_type(g.type), uint64_t(g.a_along_k ? g.K : g.M), uint64_t(g.a_along_k ? g.M : g.K), g.lda),
      d(g, cublasLtMatrixLayoutCreate, cuda_type(g.y_type), uint64_t(g.N), uint64_t(g.M), g.N) {
    set(g, CUBLASLT_MATMUL_DESC_TRANSA, int32_t(g.b_along_k ? CUBLAS_OP_T : CUBLAS_OP_N));
    set(g, CUBLASLT_MATMUL_DESC_TRANSB, int32_t(g.a_along_k ? CUBLAS_OP_N : CUBLAS_OP_T));
    const cublasLtEpilogue_t epilogue = g.gelu_tanh ? (g.z ? (g.bias ? CUBLASLT_EPILOGUE_GELU_AUX_BIAS : CUBLASLT_EPILOGUE_GELU_AUX) : g.bias ? CUBLASLT_EPILOGUE_GELU_BIAS : CUBLASLT_EPILOGUE_GELU)
                                                    : g.bias ? CUBLASLT_EPILOGUE_BIAS : CUBLASLT_EPILOGUE_DEFAULT;
    set(g, CUBLASLT_MATMUL_DESC_EPILOGUE, epilogue);
    if (g.bias) set(g, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, int32_t(cuda_type(g.y_type)));
    if (g.gelu_tanh && g.z) {
        set(g, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, g.N);
        set(g, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_DATA_TYPE, int32_t(cuda_type(g.y_type)));
    }
    point_at_rows(g);                           // the heuristic may look at them
    const Preference preference(g, cublasLtMatmulPreferenceCreate);
    cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &kWorkspace, sizeof kWorkspace);
    const uint32_t alignment = 16;              // as aligned() makes sure; the default is 256
    for (auto which : {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES})
        cublasLtMatmulPreferenceSetAttribute(preference, which, &alignment, sizeof alignment);
    cublasLtMatmulHeuristicResult_t best{};
    int count = 0;
    const cublasStatus_t s = cublasLtMatmulAlgoGetHeuristic(library(), product, a, b, d, d, preference, 1, &best, &count);
    if (s == CUBLAS_STATUS_SUCCESS && count > 0) algorithm = best.algo;
    else if (s != CUBLAS_STATUS_SUCCESS && s != CUBLAS_STATUS_NOT_SUPPORTED) failed(named(g), "cublasLtMatmulAlgoGetHeuristic", s);
}
void Plan::point_at_rows(const Gemm& g) const {
    if (g.bias) set(g, CUBLASLT_MATMUL_DESC_BIAS_POINTER, g.bias);
    if (g.gelu_tanh && g.z) set(g, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, g.z);
}
struct State {
    std::mutex mutex;
    std::map<Key, std::unique_ptr<const Plan>> plans;
    std::map<cudaStream_t, void*> workspaces;               // products of two streams run at once
    void* workspace(cudaStream_t s) {
        void*& w = workspaces[s];
        if (!w) must(cudaMalloc(&w, kWorkspace), "cuBLASLt's workspace");
        return w;
    }
};
State& state() {
    static State* s = new State;
    return *s;
}

bool aligned(const void* p) { return uintptr_t(p) % 16 == 0; }

}

bool cublaslt_gemm(const Gemm& g) {
    const int64_t vector = 16 / size_of(g.type), y_vector = 16 / size_of(g.y_type);
    if (g.lda % vector || g.ldb % vector || g.N % y_vector) return false;       // then it has slow kernels at best
    if (g.gelu_tanh && g.z && g.N % 8) return false;        // of the auxiliary matrix
    if (g.gelu_tanh && g.add) return false;     // it would be added before GELU
    if (!aligned(g.a) || !aligned(g.b) || !aligned(g.y) || !aligned(g.add) || !aligned(g.bias) || !aligned(g.z)) return false;

    State& st = state();
    const std::lock_guard lock(st.mutex);
    std::unique_ptr<const Plan>& plan = st.plans[key_of(g)];
    if (!plan) plan = std::make_unique<const Plan>(g);
    if (!plan->algorithm) return false;
    plan->point_at_rows(g);
    const float one = 1, beta = g.add ? 1 : 0;
    const cudaStream_t stream = current_stream();
    const cublasStatus_t s = cublasLtMatmul(library(), plan->product, &one, g.b, plan->a, g.a, plan->b, &beta, g.add ? g.add : g.y, plan->d, g.y, plan->d, &*plan->algorithm, st.workspace(stream), kWorkspace, stream);
    launched({g.name, g.file, g.line}, cudaGetLastError());
    if (s != CUBLAS_STATUS_SUCCESS) failed(named(g), "cublasLtMatmul", s);
    return true;
}

}
