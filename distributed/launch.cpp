#include "binade/distributed/launch.h"

#include <charconv>
#include <cstdlib>
#include <optional>
#include <string_view>

#include "binade/core/base/error.h"
#include "binade/distributed/group_mpi.h"
#include "binade/distributed/group_nccl.h"

namespace binade::dist {

namespace {

class Variables {
 public:
  explicit Variables(const GetVariable& get) : get_(get) {}
  bool has(const char* name) const { return get_(name) != nullptr; }
  std::string text(const char* name) const {
    const char* value = get_(name);
    return value ? value : "";
  }
  int number(const char* name) const {
    const std::string value = text(name);
    int out = 0;
    const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), out);
    check(error == std::errc() && end == value.data() + value.size() && out >= 0, "dist::init: ", name,
          " must be a number that is not negative, got \"", value, "\"");
    return out;
  }

 private:
  const GetVariable& get_;
};

struct Names {  // of one launcher's variables; the first tells that it was used
  const char* launcher;
  const char* rank;
  const char* size;
  const char* local_rank;  // 0 where it is not set
};
constexpr Names known[] = {
    {"Open MPI", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"},
    {"MPICH", "PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID"},
    {"torchrun", "RANK", "WORLD_SIZE", "LOCAL_RANK"},
    {"Slurm", "SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID"},
};

std::optional<Launch> read(const Variables& variables, const Names& names) {
  const bool rank = variables.has(names.rank), size = variables.has(names.size);
  if (!rank && !size) return {};
  check(rank && size, "dist::init: ", rank ? names.rank : names.size, " is set but ", rank ? names.size : names.rank,
        " is not: set both, or neither");
  Launch launch{.launcher = names.launcher, .rank = variables.number(names.rank), .size = variables.number(names.size)};
  check(launch.size > 0 && launch.rank < launch.size, "dist::init: ", names.rank, " must be below ", names.size, ", got ",
        launch.rank, " and ", launch.size);
  if (variables.has(names.local_rank)) launch.local_rank = variables.number(names.local_rank);
  return launch;
}

// Slurm sets SLURM_NTASKS in a whole allocation, SLURM_STEP_ID in batch scripts too: only srun's tasks have a step that
// is not the batch script's, and no step at all where there is a single task.
bool started_by_srun(const Variables& variables) {
  return variables.has("SLURM_PROCID") && variables.has("SLURM_STEP_ID") && variables.text("SLURM_STEP_ID") != "4294967291";
}

}  // namespace

Launch read_launch(const GetVariable& get) {
  const Variables variables(get);
  std::optional<Launch> found;
  for (const Names& names : known) {
    const std::string_view launcher = names.launcher;
    if (launcher == "Slurm" && (found || !started_by_srun(variables))) continue;
    const std::optional<Launch> launch = read(variables, names);
    if (!launch) continue;
    if (!found) {
      found = launch;
    } else {
      check(found->rank == launch->rank && found->size == launch->size, "dist::init: ", found->launcher, " says rank ",
            found->rank, " of ", found->size, ", ", launch->launcher, "'s variables say rank ", launch->rank, " of ",
            launch->size, ": start the program with one launcher, and unset what another left in the environment");
    }
    if (launcher == "torchrun" && launch->size > 1) {
      check(variables.has("MASTER_ADDR") && variables.has("MASTER_PORT"), "dist::init: RANK and WORLD_SIZE are set but ",
            variables.has("MASTER_ADDR") ? "MASTER_PORT" : "MASTER_ADDR", " is not: torchrun sets all of them");
      found->master_address = variables.text("MASTER_ADDR");
      found->master_port = variables.number("MASTER_PORT");
    }
  }
  return found.value_or(Launch{});
}

Launch read_launch() {
  return read_launch([](const char* name) -> const char* { return std::getenv(name); });
}

std::shared_ptr<ProcessGroup> init(GroupOptions options) {
  check(options.timeout.count() > 0, "dist::init: the timeout must be positive, got ", options.timeout.count(), " ms");
  const Launch launch = read_launch();
  if (launch.size == 1) return single_group(std::move(options));
  const Device device = options.device.value_or(default_device());
  if (device.type == DeviceType::cuda) return nccl_group(launch, std::move(options));
  check(launch.launcher != "torchrun", "dist::init: torchrun started ", launch.size,
        " processes, but without GPUs they communicate by MPI: start them with mpirun or srun");
  return mpi_group(launch, std::move(options));
}

}  // namespace binade::dist
