"""How many warps of a kernel a multiprocessor holds at once, of those it has room for: the theoretical occupancy, as
NVIDIA's cuda_occupancy.h computes it (CUDA toolkit), from registers, shared memory and threads of a block."""

WARP = 32
REGISTERS = 65536             # per multiprocessor, and per block
REGISTER_UNIT = 256           # they are given to warps in multiples of this
PARTITIONS = 4                # of a multiprocessor, with a quarter of the registers each
SHARED_UNIT = 128             # bytes
SHARED_RESERVED = 1024        # bytes of each block that the driver keeps

# Threads, blocks and KiB of shared memory per multiprocessor: CUDA C++ Programming Guide, "Technical Specifications per
# Compute Capability"; libcu++'s cuda/__device/arch_traits.h has the same.
LIMITS = {
    "80": (2048, 32, 164),
    "86": (1536, 16, 100),
    "89": (1536, 24, 100),
    "90": (2048, 32, 228),
    "100": (2048, 32, 228),
    "120": (1536, 24, 100),
}


def round_up(x, unit):
    return -(-x // unit) * unit


def occupancy(architecture, registers, threads, shared):
    """Percent, rounded down; `shared` is static and dynamic memory together, in bytes. 0: it cannot be launched."""
    max_threads, max_blocks, shared_kib = LIMITS[architecture]
    warps = -(-threads // WARP)
    per_warp = round_up(registers * WARP, REGISTER_UNIT)
    of_block = round_up(shared + SHARED_RESERVED, SHARED_UNIT)
    if per_warp * round_up(warps, PARTITIONS) > REGISTERS or of_block > shared_kib * 1024:
        return 0
    by_registers = REGISTERS // PARTITIONS // per_warp * PARTITIONS // warps if per_warp else max_blocks
    blocks = min(max_blocks, max_threads // WARP // warps, by_registers, shared_kib * 1024 // of_block)
    return 100 * blocks * warps * WARP // max_threads
