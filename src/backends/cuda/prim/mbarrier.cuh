#pragma once
// Shared-memory barriers, the fences around them, and cluster and named barriers: one instruction a function.

#include <cstdint>

namespace trireme::cuda {

// A 64-bit mbarrier in shared memory. A wait names the parity of the phase it waits for: 0 for the first.
using Mbarrier = std::uint64_t;

__device__ __forceinline__ std::uint32_t smem_address(const void* p) {
  return static_cast<std::uint32_t>(__cvta_generic_to_shared(p));
}

// One thread; then fence_mbarrier_init and a barrier before another thread touches it.
__device__ __forceinline__ void mbarrier_init(Mbarrier* bar, std::uint32_t arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(smem_address(bar)), "r"(arrivals) : "memory");
}

// Makes initialised barriers visible to the other CTAs of the cluster and to the copy engine.
__device__ __forceinline__ void fence_mbarrier_init() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

// Generic writes to shared memory before it are seen by the copy engine and the tensor cores after it.
__device__ __forceinline__ void fence_proxy_async() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

__device__ __forceinline__ void mbarrier_arrive_at(std::uint32_t smem_address) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(smem_address) : "memory");
}

__device__ __forceinline__ void mbarrier_arrive(Mbarrier* bar) { mbarrier_arrive_at(smem_address(bar)); }

// Arrives and adds `bytes` to what the copy engine still has to deliver in this phase.
__device__ __forceinline__ void mbarrier_arrive_expect_tx(Mbarrier* bar, std::uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(smem_address(bar)), "r"(bytes)
               : "memory");
}

// Adds expected bytes without arriving.
__device__ __forceinline__ void mbarrier_expect_tx(Mbarrier* bar, std::uint32_t bytes) {
  asm volatile("mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [%0], %1;" ::"r"(smem_address(bar)), "r"(bytes)
               : "memory");
}

// Arrives at the barrier of the same offset in CTA `rank` of the cluster (which may be this one).
__device__ __forceinline__ void mbarrier_arrive_cluster(Mbarrier* bar, std::uint32_t rank) {
  asm volatile(
      "{\n"
      ".reg .b32 remote;\n"
      "mapa.shared::cluster.u32 remote, %0, %1;\n"
      "mbarrier.arrive.release.cluster.shared::cluster.b64 _, [remote];\n"
      "}" ::"r"(smem_address(bar)),
      "r"(rank)
      : "memory");
}

// At a cluster_address (cluster_memory.cuh), ordering nothing: for a place in shared memory whose reads have
// completed (a release costs a fence of the whole chip).
__device__ __forceinline__ void mbarrier_arrive_at_relaxed(std::uint32_t cluster_address) {
  asm volatile("mbarrier.arrive.relaxed.cluster.shared::cluster.b64 _, [%0];" ::"r"(cluster_address)
               : "memory");
}

__device__ __forceinline__ bool mbarrier_try_wait(Mbarrier* bar, std::uint32_t parity) {
  std::uint32_t done;
  asm volatile(
      "{\n"
      ".reg .pred p;\n"
      "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
      "selp.u32 %0, 1, 0, p;\n"
      "}"
      : "=r"(done)
      : "r"(smem_address(bar)), "r"(parity)
      : "memory");
  return done != 0;
}

__device__ __forceinline__ void mbarrier_wait(Mbarrier* bar, std::uint32_t parity) {
  while (!mbarrier_try_wait(bar, parity)) {
  }
}

// As mbarrier_wait, where arrivals come from other CTAs of the cluster.
__device__ __forceinline__ void mbarrier_wait_cluster(Mbarrier* bar, std::uint32_t parity) {
  std::uint32_t done;
  do {
    asm volatile(
        "{\n"
        ".reg .pred p;\n"
        "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 p, [%1], %2;\n"
        "selp.u32 %0, 1, 0, p;\n"
        "}"
        : "=r"(done)
        : "r"(smem_address(bar)), "r"(parity)
        : "memory");
  } while (done == 0);
}

__device__ __forceinline__ std::uint32_t cluster_cta_rank() {
  std::uint32_t rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}

// All threads of all CTAs of the cluster.
__device__ __forceinline__ void cluster_arrive() {
  asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
}

// Ordering nothing: where the CTAs only have to have come this far (a release costs a fence of the whole
// chip). Initialised mbarriers are visible after it through fence_mbarrier_init.
__device__ __forceinline__ void cluster_arrive_relaxed() {
  asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory");
}

__device__ __forceinline__ void cluster_wait() {
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
}

__device__ __forceinline__ void cluster_sync() {
  cluster_arrive();
  cluster_wait();
}

// Named barrier `id` (1..15; __syncthreads is 0) of `threads` threads, a multiple of 32.
__device__ __forceinline__ void named_barrier_sync(std::uint32_t id, std::uint32_t threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

__device__ __forceinline__ void named_barrier_arrive(std::uint32_t id, std::uint32_t threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

// Moves registers between the warpgroups of a CTA; every warp of a warpgroup executes it. Multiples of 8.
template <std::uint32_t kRegisters>
__device__ __forceinline__ void register_limit_decrease() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

template <std::uint32_t kRegisters>
__device__ __forceinline__ void register_limit_increase() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

// Programmatic dependent launch. wait: what the kernels before wrote is visible afterwards.
// launch_dependents: the next kernel of the stream may start (it still waits before it reads what this one
// writes).
__device__ __forceinline__ void grid_dependency_wait() { asm volatile("griddepcontrol.wait;" ::: "memory"); }

__device__ __forceinline__ void grid_launch_dependents() {
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
}

// True in one lane of a converged warp.
__device__ __forceinline__ bool elect_one() {
  std::uint32_t elected;
  asm volatile(
      "{\n"
      ".reg .pred p;\n"
      "elect.sync _|p, 0xffffffff;\n"
      "selp.u32 %0, 1, 0, p;\n"
      "}"
      : "=r"(elected));
  return elected != 0;
}

}  // namespace trireme::cuda
