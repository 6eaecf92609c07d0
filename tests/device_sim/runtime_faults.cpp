// Signals: the host touching protected memory, a kernel touching what is not mapped.
#include <execinfo.h>
#include <signal.h>
#include <ucontext.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>

#include "findings.h"
#include "grid.h"
#include "runtime.h"

namespace simt {

namespace {

volatile Address fault_address = 0;

// Entered on the kernel's own stack after its fault.
[[noreturn]] void fault_in_kernel() {
  const Address a = fault_address;
  Grid& grid = the_grid();
  const bool device = is_device_address(a) || is_shared_address(a);
  grid.fail(cudaErrorIllegalAddress, device ? device_memory().recently_freed(a) ? "use-after-free" : "out-of-bounds"
                                            : "host-pointer",
            "access to unmapped memory: " + (device ? device_memory().describe(a) : "not device memory"));
}

[[noreturn]] void fault_in_host(const char* kind, const std::string& text) {
  report(kind, text);
  void* frames[24];
  backtrace_symbols_fd(frames, backtrace(frames, 24), 2);
  _exit(finding_exit_code);
}

void on_fault(int signal_number, siginfo_t* info, void* context) {
  const Address a = address_of(info->si_addr);
  if (the_grid().in_kernel()) {
    auto& registers = static_cast<ucontext_t*>(context)->uc_mcontext.gregs;
    fault_address = a;
    registers[REG_RSP] = ((registers[REG_RSP] - 512) & ~15LL) - 8;
    registers[REG_RIP] = reinterpret_cast<greg_t>(fault_in_kernel);
    return;
  }
  if (is_device_address(a)) {
    fault_in_host("host-access", "the host dereferences device memory: " + device_memory().describe(a));
  }
  if (const std::string pinned = pinned_memory().describe(a); !pinned.empty()) {
    fault_in_host("pinned-in-flight", "the host uses " + pinned);
  }
  signal(signal_number, SIG_DFL);  // not ours: happens again, and kills
}

}  // namespace

void install_fault_handler() {
  static char stack[64 << 10];
  const stack_t alternative{stack, 0, sizeof stack};
  sigaltstack(&alternative, nullptr);  // of this thread; others fault on their own stacks
  struct sigaction action {};
  action.sa_sigaction = on_fault;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
  sigaction(SIGSEGV, &action, nullptr);
  sigaction(SIGBUS, &action, nullptr);
  the_grid();
}

}  // namespace simt
