// Every CUDA call's outcome as a Status that names the call. A lost GPU and a full one get codes of their
// own.
#pragma once
#include <cuda_runtime_api.h>

#include "base/result.h"

namespace trireme::cuda {

// `what` is the call, for the message. Errors that no retry can mend (the device fell off, a kernel faulted)
// are kUnavailable: the process must be started again, and the engine says so.
inline Status status_of(cudaError_t e, const char* what) {
  if (e == cudaSuccess) return {};
  if (e == cudaErrorMemoryAllocation)
    return fail(ErrorCode::kResourceExhausted, "{}: the GPU is out of memory", what);
  const bool sticky =
      e == cudaErrorIllegalAddress || e == cudaErrorLaunchFailure || e == cudaErrorECCUncorrectable ||
      e == cudaErrorHardwareStackError || e == cudaErrorIllegalInstruction ||
      e == cudaErrorMisalignedAddress || e == cudaErrorAssert || e == cudaErrorDevicesUnavailable ||
      e == cudaErrorLaunchTimeout || e == cudaErrorUnknown || e == cudaErrorInvalidAddressSpace ||
      e == cudaErrorInvalidPc || e == cudaErrorNvlinkUncorrectable || e == cudaErrorContained ||
      e == cudaErrorMpsClientTerminated || e == cudaErrorSystemNotReady || e == cudaErrorNoDevice;
  return fail(sticky ? ErrorCode::kUnavailable : ErrorCode::kInternal, "{}: {} ({})", what,
              cudaGetErrorString(e), cudaGetErrorName(e));
}

}  // namespace trireme::cuda

#define CUDA_TRY(expr) TRY(::trireme::cuda::status_of((expr), #expr))
