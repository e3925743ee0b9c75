#include "backends/cuda/cublaslt/cublaslt.h"

#include <cublasLt.h>

#include <array>
#include <bit>

#include "backends/cuda/library.h"

namespace trireme::cuda {
namespace {

constexpr std::size_t kMostPlans = 8192;   // descriptors of one product with one number of rows each
constexpr i64 kWorkspace = i64{32} << 20;  // what NVIDIA advises for Hopper

// The shared size class of a number of rows: powers of two and their halves between.
i64 size_class(i64 rows) {
  const auto power = static_cast<i64>(std::bit_ceil(static_cast<u64>(rows)));
  return rows <= power / 4 * 3 ? power / 4 * 3 : power;
}

}  // namespace

struct CublasLt::Api {
  decltype(&cublasLtCreate) create;
  decltype(&cublasLtDestroy) destroy;
  decltype(&cublasLtMatmul) matmul;
  decltype(&cublasLtMatmulDescCreate) desc_create;
  decltype(&cublasLtMatmulDescDestroy) desc_destroy;
  decltype(&cublasLtMatmulDescSetAttribute) desc_set;
  decltype(&cublasLtMatrixLayoutCreate) layout_create;
  decltype(&cublasLtMatrixLayoutDestroy) layout_destroy;
  decltype(&cublasLtMatrixLayoutSetAttribute) layout_set;
  decltype(&cublasLtMatmulPreferenceCreate) preference_create;
  decltype(&cublasLtMatmulPreferenceDestroy) preference_destroy;
  decltype(&cublasLtMatmulPreferenceSetAttribute) preference_set;
  decltype(&cublasLtMatmulAlgoGetHeuristic) heuristic;
  cublasLtHandle_t handle = nullptr;

  Status load(void* lib) {
    const auto find = [lib](const char* name, auto& f) {
      return find_symbol(lib, name, reinterpret_cast<void**>(&f));
    };
    TRY(find("cublasLtCreate", create));
    TRY(find("cublasLtDestroy", destroy));
    TRY(find("cublasLtMatmul", matmul));
    TRY(find("cublasLtMatmulDescCreate", desc_create));
    TRY(find("cublasLtMatmulDescDestroy", desc_destroy));
    TRY(find("cublasLtMatmulDescSetAttribute", desc_set));
    TRY(find("cublasLtMatrixLayoutCreate", layout_create));
    TRY(find("cublasLtMatrixLayoutDestroy", layout_destroy));
    TRY(find("cublasLtMatrixLayoutSetAttribute", layout_set));
    TRY(find("cublasLtMatmulPreferenceCreate", preference_create));
    TRY(find("cublasLtMatmulPreferenceDestroy", preference_destroy));
    TRY(find("cublasLtMatmulPreferenceSetAttribute", preference_set));
    return find("cublasLtMatmulAlgoGetHeuristic", heuristic);
  }
};

namespace {

Status lt_status(cublasStatus_t s, const char* what) {
  if (s == CUBLAS_STATUS_SUCCESS) return {};
  return fail(s == CUBLAS_STATUS_NOT_SUPPORTED ? ErrorCode::kUnsupported : ErrorCode::kInternal,
              "{}: status {}", what, static_cast<int>(s));
}
#define LT_TRY(expr) TRY(lt_status((expr), #expr))

}  // namespace

// Descriptors of one product and the algorithm for its size class.
struct CublasLt::Plan {
  explicit Plan(const Api& a) : api(a) {}
  ~Plan() {
    for (const auto l : {w, x, out})
      if (l != nullptr) api.layout_destroy(l);
    if (desc != nullptr) api.desc_destroy(desc);
  }
  Plan(const Plan&) = delete;
  Plan& operator=(const Plan&) = delete;

  // cuBLAS counts by columns: our row-major out [rows, n] is its column-major [n, rows], and W comes first.
  Status describe(const LtProduct& p) {
    LT_TRY(api.desc_create(&desc, CUBLAS_COMPUTE_32F, CUDA_R_32F));
    const cublasOperation_t first = p.w_transposed ? CUBLAS_OP_N : CUBLAS_OP_T, second = CUBLAS_OP_N;
    LT_TRY(api.desc_set(desc, CUBLASLT_MATMUL_DESC_TRANSA, &first, sizeof first));
    LT_TRY(api.desc_set(desc, CUBLASLT_MATMUL_DESC_TRANSB, &second, sizeof second));
    if (p.fp8) {
      const i32 blocks = CUBLASLT_MATMUL_MATRIX_SCALE_BLK128x128_32F,
                rows = CUBLASLT_MATMUL_MATRIX_SCALE_VEC128_32F;
      LT_TRY(api.desc_set(desc, CUBLASLT_MATMUL_DESC_A_SCALE_MODE, &blocks, sizeof blocks));
      LT_TRY(api.desc_set(desc, CUBLASLT_MATMUL_DESC_B_SCALE_MODE, &rows, sizeof rows));
    }
    const auto in = p.fp8 ? CUDA_R_8F_E4M3 : CUDA_R_16BF;
    TRY(layout(w, in, p.w_transposed ? p.n : p.k, p.w_transposed ? p.k : p.n, p.w_stride, p.batch, p.w_next));
    TRY(layout(x, in, p.k, p.rows, p.x_stride, p.batch, p.x_next));
    return layout(out, p.out_f32 ? CUDA_R_32F : CUDA_R_16BF, p.n, p.rows, p.out_stride, p.batch, p.out_next);
  }
  Status layout(cublasLtMatrixLayout_t& l, cudaDataType type, i64 rows, i64 cols, i64 stride, i64 batch,
                i64 next) const {
    LT_TRY(api.layout_create(&l, type, static_cast<u64>(rows), static_cast<u64>(cols), stride));
    if (batch == 1) return {};
    const i32 n = static_cast<i32>(batch);
    LT_TRY(api.layout_set(l, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &n, sizeof n));
    LT_TRY(api.layout_set(l, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &next, sizeof next));
    return {};
  }
  Status scales(const LtProduct& p) const {
    if (!p.fp8) return {};
    LT_TRY(api.desc_set(desc, CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, &p.w_scale, sizeof p.w_scale));
    LT_TRY(api.desc_set(desc, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, &p.x_scale, sizeof p.x_scale));
    return {};
  }
  Status choose() {
    cublasLtMatmulPreference_t preference = nullptr;
    LT_TRY(api.preference_create(&preference));
    const u64 bytes = static_cast<u64>(kWorkspace);
    cublasLtMatmulHeuristicResult_t result{};
    int found = 0;
    cublasStatus_t s =
        api.preference_set(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &bytes, sizeof bytes);
    if (s == CUBLAS_STATUS_SUCCESS)
      s = api.heuristic(api.handle, desc, w, x, out, out, preference, 1, &result, &found);
    api.preference_destroy(preference);
    LT_TRY(s);
    if (found == 0) return fail(ErrorCode::kUnsupported, "cuBLASLt has no algorithm for this product");
    algorithm = result.algo;
    return {};
  }

  const Api& api;
  cublasLtMatmulDesc_t desc = nullptr;
  cublasLtMatrixLayout_t w = nullptr, x = nullptr, out = nullptr;
  cublasLtMatmulAlgo_t algorithm{};
};

CublasLt::CublasLt() : api_(std::make_unique<Api>()) {}
CublasLt::~CublasLt() {
  plans_.clear();
  if (api_->handle != nullptr) api_->destroy(api_->handle);
}

Result<std::unique_ptr<CublasLt>> CublasLt::open() {
  ASSIGN(void* lib, open_library("libcublasLt.so.13"));
  std::unique_ptr<CublasLt> lt(new CublasLt);
  TRY(lt->api_->load(lib));
  LT_TRY(lt->api_->create(&lt->api_->handle));
  return lt;
}

Result<CublasLt::Plan*> CublasLt::plan_for(const LtProduct& p) {
  LtProduct shape = p;
  const std::string what =
      fmt::format("{} {} {} {}{}{} {} {} {} {} {} {}", p.n, p.k, p.batch, p.fp8, p.out_f32, p.w_transposed,
                  p.x_stride, p.w_stride, p.out_stride, p.x_next, p.w_next, p.out_next);
  const std::lock_guard lock(mutex_);
  if (plans_.size() > kMostPlans) plans_.clear();
  auto& exact = plans_[fmt::format("{} x {}", p.rows, what)];
  if (exact) return exact.get();
  auto& of_class = plans_[fmt::format("class {} x {}", size_class(p.rows), what)];
  if (!of_class) {
    shape.rows = size_class(p.rows);
    if (p.fp8) shape.rows = round_up(shape.rows, 8);
    auto made = std::make_unique<Plan>(*api_);
    TRY(made->describe(shape));
    TRY(made->scales(p));  // block scaling without its pointers is refused
    TRY(made->choose());
    of_class = std::move(made);
  }
  auto made = std::make_unique<Plan>(*api_);
  TRY(made->describe(p));
  made->algorithm = of_class->algorithm;
  exact = std::move(made);
  return exact.get();
}

Status CublasLt::run(const LtProduct& p, CudaStream& stream) {
  if (p.rows == 0) return {};
  ASSIGN(Plan * plan, plan_for(p));
  ASSIGN(void* workspace, stream.scratch(Scratch::kLinear, kWorkspace));
  TRY(plan->scales(p));
  const float one = 1, other = p.accumulate ? 1.0f : 0.0f;
  const auto launch = [&] {
    return api_->matmul(api_->handle, plan->desc, &one, p.w, plan->w, p.x, plan->x, &other, p.out, plan->out,
                        p.out, plan->out, &plan->algorithm, workspace, static_cast<std::size_t>(kWorkspace),
                        stream.handle());
  };
  cublasStatus_t s = launch();
  if (s == CUBLAS_STATUS_NOT_SUPPORTED || s == CUBLAS_STATUS_INVALID_VALUE) {
    // The class's algorithm does not take this number of rows: ask for its own.
    TRY(plan->choose());
    s = launch();
  }
  return lt_status(s, "cublasLtMatmul");
}

Status CublasLt::warm(LtProduct p, CudaStream& stream) {
  TRY(stream.scratch(Scratch::kLinear, kWorkspace));
  const i64 most = p.rows;
  for (i64 rows = 8; rows <= most; rows = size_class(rows + 1)) {
    p.rows = rows;
    TRY(plan_for(p));
  }
  return {};
}

}  // namespace trireme::cuda
