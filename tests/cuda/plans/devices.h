// The GPUs that plans are built for, as cuDNN's device properties. Nothing here was read from a device.
//   threads and blocks per multiprocessor, shared memory: CUDA C++ Programming Guide, "Compute Capabilities", table
//     "Technical Specifications per Compute Capability"; blocks also in cuda_occupancy.h, which a test compares
//   multiprocessors, memory, L2, clocks: NVIDIA's architecture papers (GA100, GA102 with the GA106 card's data sheet,
//     AD102, GH100, Blackwell data centre and RTX Blackwell). B200: multiprocessors and L2 as published measurements of the
//     card say (148 of 160, 126 MiB), for the paper has neither. Clocks do not decide which kernels a plan takes.
#pragma once
#include <fmt/format.h>

#include <cstdint>
#include <string>

namespace binade::test {

struct GpuDescription {
  const char* name;
  int architecture;  // compute capability 8.6: 860
  int multiprocessors, threads_per_multiprocessor, blocks_per_multiprocessor;
  int shared_kib;  // per multiprocessor; a block may have all but 1 KiB
  int memory_gib;
  int l2_kib;
  int clock_mhz, memory_clock_mhz;
};

inline constexpr GpuDescription gpus[] = {
    {"NVIDIA A100-SXM4-80GB", 800, 108, 2048, 32, 164, 80, 40960, 1410, 1593},
    {"NVIDIA GeForce RTX 3060", 860, 28, 1536, 16, 100, 12, 3072, 1777, 7501},
    {"NVIDIA GeForce RTX 4090", 890, 128, 1536, 24, 100, 24, 73728, 2520, 10501},
    {"NVIDIA H100 80GB HBM3", 900, 132, 2048, 32, 228, 80, 51200, 1980, 2619},
    {"NVIDIA B200", 1000, 148, 2048, 32, 228, 180, 129024, 1965, 3996},
    {"NVIDIA GeForce RTX 5090", 1200, 170, 1536, 24, 100, 32, 98304, 2407, 14001},
};

inline std::string properties_of(const GpuDescription& g) {
  return fmt::format(
      R"({{"version":1,"deviceVer":{},"driverVer":13000,"cudaDeviceId":0,"deviceName":"{}","multiProcessorCount":{},)"
      R"("maxGridSize":[2147483647,65535,65535],"maxBlockSize":[1024,1024,64],"regsPerBlock":65536,"warpSize":32,)"
      R"("maxSharedMemoryPerBlock":49152,"maxSharedMemoryPerBlockOptin":{},"reservedSharedMemoryPerBlock":1024,)"
      R"("maxRegistersPerSM":65536,"maxCtasPerSM":{},"maxThreadsPerBlock":1024,"maxThreadsPerSM":{},"isTccDriver":0,)"
      R"("supportCoopLaunch":1,"totalGlobalMem":{},"smClockRateKHz":{},"memClockRateKHz":{},"l2CacheSize":{},)"
      R"("pciDeviceId":0}})",
      g.architecture, g.name, g.multiprocessors, (g.shared_kib - 1) * 1024, g.blocks_per_multiprocessor,
      g.threads_per_multiprocessor, std::int64_t{g.memory_gib} << 30, g.clock_mhz * 1000, g.memory_clock_mhz * 1000,
      g.l2_kib * 1024);
}

}  // namespace binade::test
