"""What XLA must know of a GPU to compile for it: facts from NVIDIA's guides.

The text is a `GpuTargetConfigProto`. Limits of a multiprocessor are those that the CUDA
C++ Programming Guide lists for compute capability 9.0; both GPUs have 132 of them.
"""

from deemo_jax.chips import Chip

HOPPER = ("h100", "h200")


def target_config(chip: Chip) -> str | None:
    """The description of a chip; None if there is none here."""
    if chip.name not in HOPPER:
        return None
    return f"""
gpu_device_info {{
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: {48 * 1024}
  shared_memory_per_block_optin: {227 * 1024}
  shared_memory_per_core: {228 * 1024}
  threads_per_core_limit: 2048
  core_count: 132
  fpus_per_core: 128
  block_dim_limit_x: {2**31 - 1}
  block_dim_limit_y: {2**16 - 1}
  block_dim_limit_z: {2**16 - 1}
  registers_per_core_limit: {2**16}
  registers_per_block_limit: {2**16}
  l2_cache_size: {50 * 2**20}
  clock_rate_ghz: 1.98
  memory_bandwidth: {int(chip.memory_bandwidth)}
  device_memory_size: {int(chip.memory)}
  cuda_compute_capability {{ major: 9 minor: 0 }}
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 10 patch: 0 }}
device_description_str: "{chip.device_kinds[0]}"
"""
