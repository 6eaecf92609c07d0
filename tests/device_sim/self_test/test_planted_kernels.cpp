// Every planted mistake of a kernel is found, named and placed, in every order of threads; and nothing else is.
#include "device.h"
#include "planted_kernels.h"

#if BINADE_SIM_CHECKED

namespace binade::test {

namespace {

struct Case {
  Planted what;
  const char *name, *kind, *says;
  cudaError_t error;
};

const Case cases[] = {
    {Planted::write_past_end, "write_past_end", "out-of-bounds", "byte 256 of a 256-byte allocation (cudaMalloc", cudaErrorIllegalAddress},
    {Planted::write_before_start, "write_before_start", "out-of-bounds", "write of 4 bytes", cudaErrorIllegalAddress},
    {Planted::read_past_end, "read_past_end", "out-of-bounds", "read of 4 bytes at byte 256", cudaErrorIllegalAddress},
    {Planted::half_past_end, "half_past_end", "out-of-bounds", "of a 252-byte allocation", cudaErrorIllegalAddress},
    {Planted::uninitialised_global, "uninitialised_global", "uninitialised-read", "nothing has written", cudaErrorIllegalAddress},
    {Planted::uninitialised_shared, "uninitialised_shared", "uninitialised-read", "shared memory", cudaErrorIllegalAddress},
    {Planted::shared_past_end, "shared_past_end", "out-of-bounds", "shared memory", cudaErrorIllegalAddress},
    {Planted::dynamic_shared_past_end, "dynamic_shared_past_end", "out-of-bounds", "byte 256 of shared memory", cudaErrorIllegalAddress},
    {Planted::shared_race_read_write, "shared_race_read_write", "shared-race", "no barrier", cudaErrorLaunchFailure},
    {Planted::shared_race_write_write, "shared_race_write_write", "shared-race", "write of 4 bytes", cudaErrorLaunchFailure},
    {Planted::shared_race_second_round, "shared_race_second_round", "shared-race", "no barrier", cudaErrorLaunchFailure},
    {Planted::global_race_in_block, "global_race_in_block", "shared-race", "global memory", cudaErrorLaunchFailure},
    {Planted::block_race, "block_race", "block-race", "another block", cudaErrorLaunchFailure},
    {Planted::block_race_read, "block_race_read", "block-race", "another block", cudaErrorLaunchFailure},
    {Planted::atomic_and_plain, "atomic_and_plain", "block-race", "another block", cudaErrorLaunchFailure},
    {Planted::missing_fence, "missing_fence", "block-race", "read of 4 bytes", cudaErrorLaunchFailure},
    {Planted::missing_syncwarp, "missing_syncwarp", "shared-race", "no barrier", cudaErrorLaunchFailure},
    {Planted::shuffle_is_no_barrier, "shuffle_is_no_barrier", "shared-race", "no barrier", cudaErrorLaunchFailure},
    {Planted::divergent_barrier, "divergent_barrier", "divergent-barrier", "__syncthreads", cudaErrorLaunchFailure},
    {Planted::barrier_after_exit, "barrier_after_exit", "divergent-barrier", "exited", cudaErrorLaunchFailure},
    {Planted::two_barriers, "two_barriers", "divergent-barrier", "while other threads wait", cudaErrorLaunchFailure},
    {Planted::divergent_shuffle, "divergent_shuffle", "divergent-warp", "mask ffffffff", cudaErrorLaunchFailure},
    {Planted::shuffle_outside_mask, "shuffle_outside_mask", "divergent-warp", "shuffles from lane 20", cudaErrorLaunchFailure},
    {Planted::caller_outside_mask, "caller_outside_mask", "divergent-warp", "does not name it", cudaErrorLaunchFailure},
    {Planted::shuffle_after_exit, "shuffle_after_exit", "divergent-warp", "", cudaErrorLaunchFailure},
    {Planted::different_masks, "different_masks", "divergent-warp", "mask", cudaErrorLaunchFailure},
    {Planted::misaligned_vector, "misaligned_vector", "misaligned", "16-byte alignment", cudaErrorMisalignedAddress},
    {Planted::misaligned_pair, "misaligned_pair", "misaligned", "4-byte alignment", cudaErrorMisalignedAddress},
    {Planted::host_heap, "host_heap", "host-pointer", "host memory", cudaErrorIllegalAddress},
    {Planted::host_write, "host_write", "host-pointer", "write of 4 bytes", cudaErrorIllegalAddress},
    {Planted::null_pointer, "null_pointer", "host-pointer", "host memory", cudaErrorIllegalAddress},
    {Planted::host_global, "host_global", "host-pointer", "host memory", cudaErrorIllegalAddress},
    {Planted::other_device, "other_device", "wrong-device", "runs on device 0", cudaErrorIllegalAddress},
    {Planted::misaligned_atomic, "misaligned_atomic", "misaligned", "atomic update of 4 bytes", cudaErrorMisalignedAddress},
    {Planted::atomic_past_end, "atomic_past_end", "out-of-bounds", "atomic update", cudaErrorIllegalAddress},
};

using Parameter = std::tuple<Case, simt::ThreadOrder>;
std::ostream& operator<<(std::ostream& out, const Case& c) { return out << c.name; }

class PlantedKernels : public DeviceSim, public testing::WithParamInterface<Parameter> {};

std::string name_of(const testing::TestParamInfo<Parameter>& info) {
  const char* orders[] = {"forward", "reverse", "shuffled"};
  return std::string(std::get<0>(info.param).name) + "_" + orders[static_cast<int>(std::get<1>(info.param))];
}
INSTANTIATE_TEST_SUITE_P(All, PlantedKernels,
                         testing::Combine(testing::ValuesIn(cases),
                                          testing::Values(simt::ThreadOrder::forward, simt::ThreadOrder::reverse,
                                                          simt::ThreadOrder::shuffled)),
                         name_of);

}  // namespace

TEST_P(PlantedKernels, IsFound) {
  const Case c = std::get<0>(GetParam());
  simt::settings().order = std::get<1>(GetParam());
  const Stream stream;
  const bool racing = c.what >= Planted::shared_race_read_write && c.what <= Planted::shuffle_is_no_barrier;
  const Buffer<float> in(c.what == Planted::half_past_end ? 63 : 64), out(racing ? 128 : 64);
  if (c.what != Planted::uninitialised_global) must(cudaMemsetAsync(in.data, 0, in.size * 4, stream));
  must(cudaMemsetAsync(out.data, 0, out.size * 4, stream));
  must(stream.synchronize());
  std::vector<float> host(64);
  const float* from = in.data;
  float* to = out.data;
  float* elsewhere = nullptr;
  if (c.what == Planted::host_heap) from = host.data();
  if (c.what == Planted::host_write) to = host.data();
  if (c.what == Planted::null_pointer) from = nullptr;
  if (c.what == Planted::other_device) {
    must(cudaSetDevice(1));
    must(cudaMalloc(reinterpret_cast<void**>(&elsewhere), 256));
    must(cudaSetDevice(0));
    from = elsewhere;
  }
  run_planted(c.what, from, to, 64, stream);
  EXPECT_EQ(stream.synchronize(), c.error);
  const auto findings = simt::take_findings();
  ASSERT_EQ(findings.size(), 1U);
  EXPECT_EQ(findings[0].kind, c.kind);
  EXPECT_NE(findings[0].text.find(c.says), std::string::npos) << findings[0].text;
  EXPECT_NE(findings[0].text.find("_kernel("), std::string::npos) << "names the kernel: " << findings[0].text;
  EXPECT_NE(findings[0].text.find("thread ("), std::string::npos) << findings[0].text;
  EXPECT_NE(findings[0].text.find("planted_kernels.cu:"), std::string::npos) << "says where: " << findings[0].text;
  // The error stays, as on a device.
  void* more = nullptr;
  EXPECT_EQ(cudaMalloc(&more, 16), c.error);
  EXPECT_EQ(cudaGetLastError(), c.error);
  EXPECT_EQ(cudaGetLastError(), c.error);
}

}  // namespace binade::test

#endif
