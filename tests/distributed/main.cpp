// One program, many roles: a rank of an MPI job that runs the tests (rank 0 reports), or one that plays a scenario.
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <mutex>

#include "binade/core/tensor/tensor.h"
#include "binade/tests/core/test_device.h"
#include "binade/tests/distributed/ranks.h"

namespace binade::test {

namespace {
std::shared_ptr<dist::ProcessGroup> the_group;
std::mutex notes_mutex;
std::vector<std::string> notes;
}  // namespace

const std::shared_ptr<dist::ProcessGroup>& shared_group() { return the_group; }
dist::ProcessGroup& group() { return *the_group; }

void note(const std::string& event) {
  const std::lock_guard lock(notes_mutex);
  notes.push_back(event);
}
std::vector<std::string> noted() {
  const std::lock_guard lock(notes_mutex);
  return notes;
}
void clear_notes() {
  const std::lock_guard lock(notes_mutex);
  notes.clear();
}

void Ranks::SetUp() { group().barrier().wait(); }

void Ranks::TearDown() {
  const Tensor failed = zeros({size()}, {.dtype = DType::u8});
  group().all_gather(failed, full({1}, HasFailure() ? 1 : 0, {.dtype = DType::u8})).wait();
  if (HasFailure()) return;
  for (int r = 0; r < size(); ++r) EXPECT_EQ(failed.at(r), 0) << "failed on rank " << r << ", see its output";
}

bool Ranks::same_on_all_ranks(const Tensor& x) {
  const Tensor mine = x.detach().to(Device{}).contiguous();
  const Tensor all = empty({size() * mine.numel()}, {.dtype = mine.dtype()});
  group().all_gather(all, mine).wait();
  const auto bytes = static_cast<std::size_t>(mine.numel() * size_of(mine.dtype()));
  for (int r = 0; r < size(); ++r) {
    if (std::memcmp(TensorView(all).data + bytes * static_cast<std::size_t>(r), TensorView(mine).data, bytes) != 0) return false;
  }
  return true;
}

}  // namespace binade::test

int main(int argc, char** argv) {
  using namespace binade;
  if (const char* scenario = std::getenv("BINADE_SCENARIO")) return test::run_scenario(scenario);
  testing::InitGoogleTest(&argc, argv);
  // A test that throws must not keep the job waiting: the others end by their timeout.
  const auto trace = [](const dist::TraceEvent& event) {
    const bool started = event.when == dist::TraceEvent::When::started;
    test::note((started ? "started " : "finished ") + event.collective.text());
  };
  test::the_group = dist::init({.timeout = std::chrono::seconds(120), .trace = trace, .device = test::test_device(),
                               .library_sums = std::getenv("BINADE_TEST_LIBRARY_SUMS") != nullptr});
  if (test::the_group->rank() > 0) {
    auto& listeners = testing::UnitTest::GetInstance()->listeners();
    delete listeners.Release(listeners.default_xml_generator());  // the file is rank 0's: two that write it can spoil it
    struct Failures : testing::EmptyTestEventListener {
      void OnTestPartResult(const testing::TestPartResult& result) override {
        if (!result.failed()) return;
        std::cerr << "rank " << test::group().rank() << ": " << (result.file_name() ? result.file_name() : "") << ":"
                  << result.line_number() << ": " << result.message() << std::endl;
      }
    };
    delete listeners.Release(listeners.default_result_printer());
    listeners.Append(new Failures);
  }
  const int result = RUN_ALL_TESTS();
  test::the_group.reset();
  return result;
}
