// What -fsanitize=thread,alignment makes a checked kernel call, in place of the sanitizers' own libraries.
#include <cstdint>
#include <string>

#include "checker.h"
#include "grid.h"

using simt::Access;
using simt::check_access;

#define HOOK __attribute__((visibility("default"), noinline))
#define CODE static_cast<const char*>(__builtin_return_address(0)) - 1

// Loads and stores of one size; "unaligned" ones may lie anywhere (their type's alignment is checked below).
#define LOAD_STORE(n)                                                                                       \
  HOOK void __tsan_read##n(void* p) { check_access(p, n, Access::read, true, CODE); }                       \
  HOOK void __tsan_write##n(void* p) { check_access(p, n, Access::write, true, CODE); }                     \
  HOOK void __tsan_unaligned_read##n(void* p) { check_access(p, n, Access::read, false, CODE); }            \
  HOOK void __tsan_unaligned_write##n(void* p) { check_access(p, n, Access::write, false, CODE); }          \
  HOOK void __tsan_volatile_read##n(void* p) { check_access(p, n, Access::read, true, CODE); }              \
  HOOK void __tsan_volatile_write##n(void* p) { check_access(p, n, Access::write, true, CODE); }            \
  HOOK void __tsan_read_write##n(void* p) {                                                                 \
    check_access(p, n, Access::read, true, CODE);                                                           \
    check_access(p, n, Access::write, true, CODE);                                                          \
  }                                                                                                         \
  HOOK void __tsan_unaligned_read_write##n(void* p) {                                                       \
    check_access(p, n, Access::read, false, CODE);                                                          \
    check_access(p, n, Access::write, false, CODE);                                                         \
  }

extern "C" {

LOAD_STORE(1)
LOAD_STORE(2)
LOAD_STORE(4)
LOAD_STORE(8)
LOAD_STORE(16)
HOOK void __tsan_read_range(void* p, unsigned long n) { check_access(p, n, Access::read, false, CODE); }
HOOK void __tsan_write_range(void* p, unsigned long n) { check_access(p, n, Access::write, false, CODE); }
HOOK void __tsan_init() {}
HOOK void __tsan_func_entry(void*) {}
HOOK void __tsan_func_exit(void*) {}
HOOK void __tsan_vptr_update(void*, void*) {}
HOOK void __tsan_vptr_read(void*) {}

HOOK void __ubsan_handle_type_mismatch_v1(void* data, void* pointer) {
  struct Mismatch {  // the head of the compiler's record
    const char* file;
    std::uint32_t line, column;
    const void* type;
    unsigned char log_alignment;
  };
  if (!simt::the_grid().in_kernel()) return;
  const auto& where = *static_cast<const Mismatch*>(data);
  const simt::Address a = simt::address_of(pointer);
  const bool on_device = simt::is_device_address(a) || simt::is_shared_address(a);
  simt::the_grid().fail(cudaErrorMisalignedAddress, "misaligned",
                        "access through a pointer that needs " + std::to_string(1U << where.log_alignment) +
                            "-byte alignment, to " + (on_device ? simt::device_memory().describe(a) : "host memory") +
                            ", at " + simt::text_of({where.file, static_cast<int>(where.line)}));
}
HOOK void __ubsan_handle_type_mismatch_v1_abort(void* data, void* pointer) {
  __ubsan_handle_type_mismatch_v1(data, pointer);
}

}  // extern "C"
