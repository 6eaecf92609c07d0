// The GPUs that plans are built for, as cuDNN's device properties. Nothing here was read from a device.
//   threads, blocks and shared memory per multiprocessor, registers, limits of grids and blocks: CUDA C++ Programming Guide,
//     "Compute Capabilities", table "Technical Specifications per Compute Capability"; libcu++'s cuda/__device/arch_traits.h
//     says the same. Blocks and shared memory are compared with the toolkit's cuda_occupancy.h by a test
//   multiprocessors: NVIDIA's architecture papers (GA100, GA102 with the GA106 card's data sheet, AD102, GH100, RTX
//     Blackwell); B200: as the cards say
//   memory, L2, clocks: what the cards say of themselves in published outputs of NVIDIA's deviceQuery, on Linux; B200:
//     pytorch/ao pull request 4002 (148 multiprocessors, 126.50 MiB of L2, 3996 MHz), and 182631 MiB as PyTorch prints it.
//     The Blackwell Tuning Guide rounds B200's L2 to 126 MB. RTX 3060: the paper's chip has 3 MiB of L2, the card says
//     2.25. The clock of B200 has no source that we know; clocks decide no plan.
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
  int memory_mib;
  int l2_kib;
  int clock_mhz, memory_clock_mhz;
};

inline constexpr GpuDescription gpus[] = {
    {"NVIDIA A100-SXM4-80GB", 800, 108, 2048, 32, 164, 81051, 40960, 1410, 1593},
    {"NVIDIA GeForce RTX 3060", 860, 28, 1536, 16, 100, 12044, 2304, 1777, 7501},
    {"NVIDIA GeForce RTX 4090", 890, 128, 1536, 24, 100, 24081, 73728, 2520, 10501},
    {"NVIDIA H100 80GB HBM3", 900, 132, 2048, 32, 228, 81090, 51200, 1980, 2619},
    {"NVIDIA B200", 1000, 148, 2048, 32, 228, 182631, 129536, 1965, 3996},
    {"NVIDIA GeForce RTX 5090", 1200, 170, 1536, 24, 100, 32101, 98304, 2407, 14001},
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
      g.threads_per_multiprocessor, std::int64_t{g.memory_mib} << 20, g.clock_mhz * 1000, g.memory_clock_mhz * 1000,
      g.l2_kib * 1024);
}

}  // namespace binade::test
