// Fibers, block barriers and shared memory.
#include <sys/mman.h>

#include <algorithm>
#include <bit>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>

#include "findings.h"
#include "grid.h"
#include "settings.h"

// Saves the callee-saved registers and the stack pointer at *save, and goes on where `to` was saved.
asm(R"(
.text
.globl simt_switch_stack
.type simt_switch_stack,@function
simt_switch_stack:
  pushq %rbp; pushq %rbx; pushq %r12; pushq %r13; pushq %r14; pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15; popq %r14; popq %r13; popq %r12; popq %rbx; popq %rbp
  popq %rcx
  jmp *%rcx            # a `ret` would be mispredicted every time
.size simt_switch_stack,.-simt_switch_stack
)");
extern "C" void simt_switch_stack(void** save, void* to);

namespace simt {

constinit ThreadContext current;
constinit thread_local bool Grid::on_this_thread_ = false;

namespace {

constexpr std::size_t guard_bytes = 4096, redzone = 64;

Address new_stack() {
  void* memory = mmap(nullptr, Grid::stack_bytes + guard_bytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) std::abort();
  mprotect(memory, guard_bytes, PROT_NONE);
  return address_of(memory) + guard_bytes;
}

bool same(Site a, Site b) { return a.line == b.line && (a.file == b.file || std::strcmp(a.file, b.file) == 0); }

}  // namespace

Grid& the_grid() {
  static Grid* grid = new Grid;
  return *grid;
}

std::string position() {
  char text[120];
  std::snprintf(text, sizeof text, "block (%u,%u,%u) thread (%u,%u,%u)", current.block.x, current.block.y,
                current.block.z, current.thread.x, current.thread.y, current.thread.z);
  return text;
}

std::string text_of(Site site) {
  const char* slash = std::strrchr(site.file, '/');
  return std::string(slash ? slash + 1 : site.file) + ":" + std::to_string(site.line);
}

void Grid::fail(cudaError_t error, const char* kind, std::string text, const void* code) {
  error_ = error;
  failure_kind_ = kind;
  failure_ = std::move(text) + " [" + position();
  failure_code_ = code;
  simt_switch_stack(&fibers_[fiber_].stack_pointer, main_stack_pointer_);
  std::abort();
}

std::uint64_t Grid::random() {  // xorshift64
  random_state_ ^= random_state_ << 13;
  random_state_ ^= random_state_ >> 7;
  return random_state_ ^= random_state_ << 17;
}

// ---- fibers

unsigned Grid::new_fiber() {
  const unsigned index = free_count_ ? free_fibers_[--free_count_] : fiber_count_++;
  Fiber& fiber = fibers_[index];
  if (!fiber.stack) fiber.stack = new_stack();
  // Staggered tops, so that 1024 stacks do not fall into the same cache sets.
  const Address top = (fiber.stack + stack_bytes - 64 - index * 448 % 8192) & ~Address{15};
  auto* words = reinterpret_cast<void**>(top);
  *--words = nullptr;
  *--words = reinterpret_cast<void*>(fiber_entry);
  for (int i = 0; i < 6; ++i) *--words = nullptr;
  fiber.stack_pointer = words;
  return index;
}

void Grid::switch_from(unsigned from, unsigned to) {
  Fiber& leaving = fibers_[from];
  leaving.thread = current.thread;
  leaving.linear = current.linear;
  fiber_ = to;
  simt_switch_stack(&leaving.stack_pointer, fibers_[to].stack_pointer);
  current.thread = leaving.thread;  // back again
  current.linear = leaving.linear;
}

unsigned Grid::next_ready() {
  if (settings().order == ThreadOrder::shuffled && ready_count_ > 1) {
    const auto other = static_cast<unsigned>(random() % ready_count_);
    std::swap(ready_[ready_head_], ready_[(ready_head_ + other) % max_block_threads]);
  }
  const unsigned fiber = ready_[ready_head_];
  ready_head_ = (ready_head_ + 1) % max_block_threads;
  --ready_count_;
  return fiber;
}

void Grid::wait() {
  const unsigned from = fiber_;
  if (ready_count_) {
    switch_from(from, next_ready());
  } else if (next_thread_ < threads_) {
    switch_from(from, new_fiber());
  } else {
    stuck();
  }
}

void Grid::start(unsigned number) {
  const unsigned t = order_.empty() ? number : order_[number];
  const dim3 b = launch_.block;
  current.linear = t;
  current.thread = {t % b.x, t / b.x % b.y, t / (b.x * b.y)};
}

void Grid::fiber_entry() { the_grid().run_threads(); }

void Grid::run_threads() {
  for (;;) {
    while (next_thread_ < threads_) {
      start(next_thread_++);
      launch_.kernel->run(parameters_);
      ++finished_;
      warps_[current.linear / 32].alive &= ~(1U << (current.linear % 32));
    }
    const unsigned self = fiber_;
    free_fibers_[free_count_++] = static_cast<std::uint16_t>(self);
    if (ready_count_) {
      const unsigned to = next_ready();
      fiber_ = to;
      simt_switch_stack(&fibers_[self].stack_pointer, fibers_[to].stack_pointer);
    } else if (finished_ < threads_) {
      stuck();
    } else {
      simt_switch_stack(&fibers_[self].stack_pointer, main_stack_pointer_);
    }
  }
}

void Grid::stuck() {
  std::string text = "threads wait for each other forever: " + std::to_string(finished_) + " have exited";
  if (barrier_waiting_) {
    text += ", " + std::to_string(barrier_waiting_) + " wait at __syncthreads " + text_of(barrier_site_);
  }
  for (unsigned w = 0; w < (threads_ + 31) / 32; ++w) {
    for (const Rendezvous& group : warps_[w].groups) {
      if (!group.arrived) continue;
      char lanes[80];
      std::snprintf(lanes, sizeof lanes, ", warp %u: lanes %08x of mask %08x wait at ", w, group.arrived, group.mask);
      text += lanes + text_of(group.site);
    }
  }
  fail(cudaErrorLaunchFailure, barrier_waiting_ ? "divergent-barrier" : "divergent-warp", text);
}

// ---- barriers

int Grid::barrier(int predicate, Site site) {
  if (!barrier_waiting_) {
    barrier_site_ = site;
    barrier_predicates_ = 0;
  } else if (!same(barrier_site_, site)) {
    fail(cudaErrorLaunchFailure, "divergent-barrier",
         "__syncthreads at " + text_of(site) + ", while other threads wait at " + text_of(barrier_site_));
  }
  barrier_predicates_ += predicate != 0;
  if (finished_) {
    fail(cudaErrorLaunchFailure, "divergent-barrier",
         "__syncthreads at " + text_of(site) + ", but " + std::to_string(finished_) + " threads of the block have exited");
  }
  if (barrier_waiting_ + 1 == threads_) {
    for (unsigned i = 0; i < barrier_waiting_; ++i) ready(barrier_fibers_[i]);
    barrier_waiting_ = 0;
    barrier_result_ = barrier_predicates_;
    epochs().next();
  } else {
    barrier_fibers_[barrier_waiting_++] = static_cast<std::uint16_t>(fiber_);
    wait();
  }
  return barrier_result_;
}

bool Grid::meet(unsigned mask, Site site) {
  Warp& w = warp();
  const unsigned lane = current.linear % 32;
  char text[120];
  if (!(mask >> lane & 1)) {
    std::snprintf(text, sizeof text, "lane %u calls with mask %08x, which does not name it, at ", lane, mask);
    fail(cudaErrorLaunchFailure, "divergent-warp", text + text_of(site));
  }
  if (mask & ~w.alive) {
    std::snprintf(text, sizeof text, "mask %08x names lanes that have exited or do not exist (there are %08x), at ",
                  mask, w.alive);
    fail(cudaErrorLaunchFailure, "divergent-warp", text + text_of(site));
  }
  Rendezvous& group = w.groups[mask == 0xffffffffU ? 32 : static_cast<unsigned>(std::countr_zero(mask))];
  if (!group.arrived) {
    group.mask = mask;
    group.site = site;
  } else if (group.mask != mask || !same(group.site, site)) {
    std::snprintf(text, sizeof text, "lane %u with mask %08x, while lanes %08x wait with mask %08x: ", lane, mask,
                  group.arrived, group.mask);
    fail(cudaErrorLaunchFailure, "divergent-warp", text + text_of(site) + " and " + text_of(group.site));
  }
  group.arrived |= 1U << lane;
  w.fiber[lane] = static_cast<std::uint16_t>(fiber_);
  if (group.arrived == mask) {
    group.arrived = 0;
    return true;
  }
  wait();
  return false;
}

void Grid::leave(unsigned mask) {
  const Warp& w = warp();
  for (unsigned rest = mask & ~(1U << current.linear % 32); rest; rest &= rest - 1) {
    ready(w.fiber[static_cast<unsigned>(std::countr_zero(rest))]);
  }
}

// ---- shared memory

void* Grid::static_shared(const void* key, std::size_t bytes, std::size_t align) {
  for (const Static& s : statics_) {
    if (s.key == key) return reinterpret_cast<void*>(s.address);
  }
  const std::size_t unit = std::max<std::size_t>(align, 16);
  const Address address = shared_base + (shared_used_ + unit - 1) / unit * unit;
  shared_used_ = address - shared_base + bytes + redzone;
  if (shared_used_ > shared_bytes_max) fail(cudaErrorLaunchFailure, "out-of-bounds", "more than 227 KiB of shared memory");
  std::memset(reinterpret_cast<void*>(address), 0xff, bytes);
  set_state(address, bytes, state_allocated);
  statics_.push_back({key, address});
  return reinterpret_cast<void*>(address);
}

void Grid::begin_block(std::uint64_t index) {
  const dim3 g = launch_.grid;
  current.block = {static_cast<unsigned>(index % g.x), static_cast<unsigned>(index / g.x % g.y),
                   static_cast<unsigned>(index / (std::uint64_t{g.x} * g.y))};
  set_state(shared_base, std::max(shared_used_, launch_.dynamic_bytes + redzone), 0);
  statics_.clear();
  shared_used_ = 0;
  if (launch_.dynamic_bytes) {
    std::memset(dynamic_shared(), 0xff, launch_.dynamic_bytes);
    set_state(shared_base, launch_.dynamic_bytes, state_allocated);
    shared_used_ = launch_.dynamic_bytes + redzone;
  }
  next_thread_ = finished_ = barrier_waiting_ = ready_head_ = ready_count_ = fiber_count_ = free_count_ = 0;
  for (unsigned w = 0; w < (threads_ + 31) / 32; ++w) {
    const unsigned lanes = std::min(32U, threads_ - w * 32);
    warps_[w].alive = lanes == 32 ? 0xffffffffU : (1U << lanes) - 1;
    for (Rendezvous& group : warps_[w].groups) group.arrived = 0;
  }
  block_epochs_.push_back(block_epochs_.empty() ? epochs().now() : epochs().next());
  fenced_ = 0;
  acquired_.clear();
}

cudaError_t Grid::run(const GridRun& launch) {
  device_memory();
  launch_ = launch;
  threads_ = launch.block.x * launch.block.y * launch.block.z;
  error_ = cudaSuccess;
  std::memcpy(parameters_, launch.kernel->parameters, launch.kernel->bytes);
  current.block_dim = launch.block;
  current.grid_dim = launch.grid;
  first_epoch_ = epochs().now();
  block_epochs_.clear();
  releases_.clear();
  order_.clear();
  const ThreadOrder order = settings().order;
  if (order != ThreadOrder::forward) {
    for (unsigned i = threads_; i > 0; --i) order_.push_back(i - 1);
  }
  const std::uint64_t blocks = std::uint64_t{launch.grid.x} * launch.grid.y * launch.grid.z;
  std::vector<std::uint64_t> block_order;
  if (order == ThreadOrder::shuffled) {
    std::mt19937_64 generator(settings().seed + first_epoch_);
    random_state_ = generator() | 1;
    std::shuffle(order_.begin(), order_.end(), generator);
    for (std::uint64_t i = 0; i < blocks; ++i) block_order.push_back(i);
    std::shuffle(block_order.begin(), block_order.end(), generator);
  }
  for (std::uint64_t i = 0; i < blocks && error_ == cudaSuccess; ++i) {
    begin_block(order == ThreadOrder::reverse ? blocks - 1 - i : order == ThreadOrder::shuffled ? block_order[i] : i);
    fiber_ = new_fiber();
    on_this_thread_ = true;
    simt_switch_stack(&main_stack_pointer_, fibers_[fiber_].stack_pointer);
    on_this_thread_ = false;
  }
  if (error_ != cudaSuccess) {
    const CodePlace place = place_of(failure_code_);
    failure_ += failure_code_ ? ", at " + place.line + "]" : "]";
    report(failure_kind_, "kernel " + place_of(launch.kernel->function).function + ": " + failure_);
  }
  return error_;
}

// ---- ordering between blocks

std::uint32_t Grid::run_of_block(std::uint32_t epoch) const {
  const auto after = std::upper_bound(block_epochs_.begin(), block_epochs_.end(), epoch);
  return static_cast<std::uint32_t>(after - block_epochs_.begin()) - 1;
}

void Grid::atomic_access(Address a) {
  const auto block = static_cast<std::uint32_t>(block_epochs_.size()) - 1;
  auto& published_here = releases_[a];
  for (const auto& [other, release] : published_here) {
    if (other != block) acquired_[other] = release;
  }
  if (fenced_) published_here[block] = {fenced_, static_cast<std::uint16_t>(fence_thread_)};
}

bool Grid::published(std::uint32_t epoch, unsigned thread) const {
  const auto found = acquired_.find(run_of_block(epoch));
  if (found == acquired_.end()) return false;
  const Release& release = found->second;
  return epoch < release.epoch || (epoch == release.epoch && thread == release.thread);
}

// ---- the device language's side

int block_barrier(int predicate, Site site) { return the_grid().barrier(predicate, site); }
void* static_shared(const void* key, std::size_t bytes, std::size_t align) {
  return the_grid().static_shared(key, bytes, align);
}
void* dynamic_shared() { return the_grid().dynamic_shared(); }
void thread_fence() { the_grid().fence(); }

}  // namespace simt
