// The NCCL stand-in: two ranks as threads with a device each, and what it refuses.
#include <nccl.h>

#include <atomic>
#include <chrono>
#include <functional>
#include <thread>
#include <utility>

#include "device.h"

namespace binade::test {

namespace {

class NcclRank {
 public:
  NcclRank(int rank, const ncclUniqueId& id) : rank_(rank) {
    must(cudaSetDevice(rank));
    must(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    EXPECT_EQ(ncclCommInitRankConfig(&comm, 2, id, rank, &config), ncclInProgress);
    settle();
  }
  ~NcclRank() {
    if (comm) ncclCommAbort(comm);
    cudaStreamDestroy(stream);
  }
  NcclRank(const NcclRank&) = delete;
  NcclRank& operator=(const NcclRank&) = delete;
  void settle() const {
    ncclResult_t state = ncclInProgress;
    while (state == ncclInProgress) {
      ASSERT_EQ(ncclCommGetAsyncError(comm, &state), ncclSuccess);
      std::this_thread::yield();
    }
    EXPECT_EQ(state, ncclSuccess);
  }
  void call(ncclResult_t result) const {
    if (result == ncclInProgress) return settle();
    EXPECT_EQ(result, ncclSuccess);
  }
  int rank() const { return rank_; }
  ncclComm_t comm = nullptr;
  cudaStream_t stream = nullptr;

 private:
  int rank_;
};

class SimulatedNccl : public DeviceSim {
 protected:
  static void run(const std::function<void(NcclRank&)>& body) {
    ncclUniqueId id;
    ASSERT_EQ(ncclGetUniqueId(&id), ncclSuccess);
    std::vector<std::thread> threads;
    for (int r = 0; r < 2; ++r) {
      threads.emplace_back([&, r] {
        NcclRank rank(r, id);
        body(rank);
      });
    }
    for (std::thread& t : threads) t.join();
  }
};

TEST_F(SimulatedNccl, AddsInTheOrderOfRanks) {
  run([](NcclRank& r) {
    const Buffer<float> x(std::vector<float>(70000, static_cast<float>(r.rank() + 1)), r.stream), part(35000);  // longer than a ring
    r.call(ncclAllReduce(x.data, x.data, 70000, ncclFloat32, ncclSum, r.comm, r.stream));
    r.call(ncclReduceScatter(x.data, part.data, 35000, ncclFloat32, ncclAvg, r.comm, r.stream));
    EXPECT_EQ(x.read(r.stream)[69999], 3);
    EXPECT_EQ(part.read(r.stream)[34999], 3);
  });
}

TEST_F(SimulatedNccl, SendsOfAGroupHappenAtOnce) {
  run([](NcclRank& r) {
    const Buffer<int> out(std::vector<int>(100000, r.rank()), r.stream), in(100000);
    ASSERT_EQ(ncclGroupStart(), ncclSuccess);
    EXPECT_EQ(ncclSend(out.data, 100000, ncclInt32, 1 - r.rank(), r.comm, r.stream), ncclSuccess);
    EXPECT_EQ(ncclRecv(in.data, 100000, ncclInt32, 1 - r.rank(), r.comm, r.stream), ncclSuccess);
    r.call(ncclGroupEnd());
    EXPECT_EQ(in.read(r.stream)[99999], 1 - r.rank());
  });
}

// As in the library, what does not match hangs; a finding says who calls what. Aborting ends it without a result.
TEST_F(SimulatedNccl, CallsThatDoNotMatchAreFoundByRank) {
  run([](NcclRank& r) {
    const Buffer<float> x(std::vector<float>(8, 1), r.stream);
    r.call(r.rank() == 0 ? ncclAllReduce(x.data, x.data, 8, ncclFloat32, ncclSum, r.comm, r.stream)
                         : ncclAllReduce(x.data, x.data, 4, ncclFloat32, ncclSum, r.comm, r.stream));
    const Event done;
    must(cudaEventRecord(done, r.stream));
    for (int i = 0; i < 300; ++i) {
      EXPECT_EQ(cudaEventQuery(done), cudaErrorNotReady);
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    EXPECT_EQ(ncclCommAbort(std::exchange(r.comm, nullptr)), ncclSuccess);
    must(cudaStreamSynchronize(r.stream));
  });
  const std::vector<simt::Finding> found = simt::take_findings();
  EXPECT_EQ(kinds(found), "nccl-mismatch nccl-mismatch");
  EXPECT_NE((found[0].text + found[1].text).find("rank 0 is in ncclAllReduce of 8 elements"), std::string::npos) << found[0].text;
}

TEST_F(SimulatedNccl, ACommunicatorInProgressTakesNoCall) {
  run([](NcclRank& r) {
    const Buffer<float> x(std::vector<float>(8, 1), r.stream);
    ASSERT_EQ(ncclAllReduce(x.data, x.data, 8, ncclFloat32, ncclSum, r.comm, r.stream), ncclInProgress);  // it connects
    EXPECT_EQ(ncclAllReduce(x.data, x.data, 8, ncclFloat32, ncclSum, r.comm, r.stream), ncclInvalidArgument);
    r.settle();
    must(cudaStreamSynchronize(r.stream));
  });
  EXPECT_EQ(kinds(simt::take_findings()), "bad-argument bad-argument");
}

TEST_F(SimulatedNccl, BuffersAreJudgedAsOthersAre) {
  run([](NcclRank& r) {
    const Buffer<float> never_written(8), out(16);
    r.call(ncclAllGather(never_written.data, out.data, 8, ncclFloat32, r.comm, r.stream));
    EXPECT_EQ(cudaStreamSynchronize(r.stream), cudaErrorLaunchFailure);
  });
  EXPECT_EQ(kinds(simt::take_findings()), "uninitialised-read uninitialised-read");
}

TEST_F(SimulatedNccl, AnInjectedErrorIsAsynchronous) {
  simt::fail_call("ncclAsyncError", 1, static_cast<cudaError_t>(ncclRemoteError));
  run([](NcclRank& r) {
    const Buffer<float> x(std::vector<float>(8, 1), r.stream);
    r.call(ncclAllReduce(x.data, x.data, 8, ncclFloat32, ncclSum, r.comm, r.stream));
    const Event done;
    must(cudaEventRecord(done, r.stream));
    for (int i = 0; i < 100; ++i) {
      cudaEventQuery(done);
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    ncclResult_t state = ncclSuccess;
    ASSERT_EQ(ncclCommGetAsyncError(r.comm, &state), ncclSuccess);
    static std::atomic<int> failed;
    if (state == ncclRemoteError) ++failed;
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    EXPECT_EQ(failed, 1);  // one of the two ranks
    EXPECT_EQ(ncclCommAbort(std::exchange(r.comm, nullptr)), ncclSuccess);
    must(cudaStreamSynchronize(r.stream));
  });
}

TEST_F(SimulatedNccl, RefusesWhatThisProjectDoesNotDo) {
  ncclUniqueId id;
  ASSERT_EQ(ncclGetUniqueId(&id), ncclSuccess);
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;  // blocks
  ncclComm_t comm = nullptr;
  EXPECT_EQ(ncclCommInitRankConfig(&comm, 2, id, 0, &config), ncclInvalidArgument);
  EXPECT_EQ(kinds(simt::take_findings()), "bad-argument");
}

}  // namespace

}  // namespace binade::test
