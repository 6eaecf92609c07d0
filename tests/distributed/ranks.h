// Tests that run in every rank of a job at once: mpirun -n N test_distributed; on CUDA devices, which may be simulated,
// with BINADE_TEST_DEVICE=cuda.
#pragma once
#include <gtest/gtest.h>

#include <memory>

#include "binade/distributed/launch.h"

namespace binade::test {

// The group of this job, made once; where its models and batches lie; and its trace: what its collectives did, in order, with what tests add themselves.
dist::ProcessGroup& group();
const std::shared_ptr<dist::ProcessGroup>& shared_group();
inline Device device() { return group().device(); }
void note(const std::string& event);
std::vector<std::string> noted();
void clear_notes();

// A test that all ranks run together: a failure on one rank fails the test everywhere, so that rank 0's report counts it.
class Ranks : public testing::Test {
 protected:
  void SetUp() override;
  void TearDown() override;
  static int rank() { return group().rank(); }
  static int size() { return group().size(); }
  // Whether x has the same bits on every rank.
  static bool same_on_all_ranks(const Tensor& x);
};

int run_scenario(const std::string& name);  // what Launched starts: scenarios.cpp

}  // namespace binade::test
