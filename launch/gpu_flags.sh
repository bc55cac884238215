# shellcheck shell=bash
# Sourced by the GPU launchers: settings of XLA, each with its reason. Yours come last, and win.
flags=(
  # Moves collectives away from where their results are needed, so that they run beside computation:
  # with split parameters or a split batch there is one for each layer.
  --xla_gpu_enable_latency_hiding_scheduler=true
  # Matrix products by Triton wherever it can, measured against cuBLAS at compile time: T5's narrow
  # heads (64) and gated MLPs are not the shapes that cuBLAS is best at.
  --xla_gpu_triton_gemm_any=true
)
export XLA_FLAGS="${flags[*]} ${XLA_FLAGS:-}"
# XLA takes three quarters of the memory unless told; the rest would lie idle, since TensorFlow only
# reads data here. NCCL and cuBLAS need a little beside it.
export XLA_PYTHON_CLIENT_MEM_FRACTION="${XLA_PYTHON_CLIENT_MEM_FRACTION:-0.92}"
