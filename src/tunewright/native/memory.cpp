// The memory of torch's tensors on the CPU: large blocks are kept for the tensors to come.
//
// glibc puts a block that stays into the hole of a larger one that went, and half of a training
// process is holes in the end; blocks that it maps one by one fault in page by page, each time.
// Here every large block is a mapping of its own, of a size that others share, and a freed one is
// taken whole. What is kept and what is used together never exceed the most that was used at one
// time by more than an eighth, or 64 MiB: before new memory is mapped, the blocks freed longest ago
// are given back. Without that, passes of slightly other sizes would give back and map all the time.

#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>
#include <c10/util/Exception.h>
#include <pthread.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <mutex>

namespace {

constexpr size_t HEAD = 64;                 // bytes before the data, which is aligned to as many
constexpr size_t LARGE = size_t(1) << 18;   // smaller blocks are the C library's
constexpr size_t HUGE_PAGE = size_t(1) << 21;
constexpr int STEPS = 8;                    // sizes a doubling
constexpr int REACH = 6;                    // a block serves those that are so many steps smaller
constexpr int KINDS = 64 * STEPS;
constexpr size_t SLACK = 8, LEAST_SLACK = size_t(64) << 20;  // an eighth, or so many bytes
constexpr size_t OFFSETS = 16, OFFSET = 256;  // data at the same place of every page collides

struct Block {  // stands in front of the data
    size_t size;           // of the mapping; 0 for what is the C library's
    char *start;           // of the memory
    Block *newer, *older;  // of those kept, by when they were freed
    Block *next, *last;    // of those of one size
    int kind;              // place of the size among all sizes
};
static_assert(sizeof(Block) <= HEAD);

struct Keeper {
    std::mutex lock;
    Block *of_kind[KINDS] = {};
    Block *newest = nullptr, *oldest = nullptr;
    size_t used = 0, kept = 0, most = 0;
    size_t limit = SIZE_MAX;  // of what is kept
    size_t mapped = 0;        // blocks so far
};

Keeper &keeper() {
    static Keeper *one = new Keeper;  // never destroyed: tensors outlive what ends before them
    return *one;
}

int kind_of(size_t size, size_t *rounded) {
    const int power = 63 - __builtin_clzll(size);
    const size_t base = size_t(1) << power, step = base / STEPS;
    const size_t extra = (size - base + step - 1) / step;
    *rounded = base + extra * step;
    return power * STEPS + int(extra);
}

void take_out(Keeper &keeper, Block *block) {
    (block->last ? block->last->next : keeper.of_kind[block->kind]) = block->next;
    if (block->next) block->next->last = block->last;
    (block->newer ? block->newer->older : keeper.newest) = block->older;
    (block->older ? block->older->newer : keeper.oldest) = block->newer;
    keeper.kept -= block->size;
}

void put_in(Keeper &keeper, Block *block) {
    block->last = nullptr;
    block->next = keeper.of_kind[block->kind];
    if (block->next) block->next->last = block;
    keeper.of_kind[block->kind] = block;
    block->newer = nullptr;
    block->older = keeper.newest;
    (keeper.newest ? keeper.newest->newer : keeper.oldest) = block;
    keeper.newest = block;
    keeper.kept += block->size;
}

void keep_at_most(Keeper &keeper, size_t bytes) {
    while (keeper.oldest && keeper.kept > bytes) {
        Block *block = keeper.oldest;
        take_out(keeper, block);
        munmap(block->start, block->size);
    }
}

Block *map(Keeper &keeper, size_t size, int kind) {
    void *start = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (start == MAP_FAILED) return nullptr;
#ifdef MADV_HUGEPAGE
    if (size >= HUGE_PAGE) madvise(start, size, MADV_HUGEPAGE);
#endif
    char *first = static_cast<char *>(start);
    Block *block = reinterpret_cast<Block *>(first + keeper.mapped++ % OFFSETS * OFFSET);
    block->size = size;
    block->start = first;
    block->kind = kind;
    return block;
}

char *small(size_t num_bytes) {
    void *start = nullptr;
    if (posix_memalign(&start, HEAD, num_bytes + HEAD)) return nullptr;
    Block *block = static_cast<Block *>(start);
    block->size = 0;
    block->start = static_cast<char *>(start);
    return block->start + HEAD;
}

char *large(size_t num_bytes) {
    size_t size;
    const int kind = kind_of(num_bytes + HEAD + OFFSETS * OFFSET, &size);
    Keeper &keeper = ::keeper();
    const std::lock_guard<std::mutex> held(keeper.lock);
    Block *block = nullptr;
    for (int k = kind; k <= std::min(kind + REACH, KINDS - 1) && !block; k++)
        block = keeper.of_kind[k];
    if (block) {
        take_out(keeper, block);
    } else {
        const size_t need = keeper.used + size;
        const size_t all = keeper.most + std::max(keeper.most / SLACK, LEAST_SLACK);
        keep_at_most(keeper, all > need ? all - need : 0);
        block = map(keeper, size, kind);
        if (!block) {
            keep_at_most(keeper, 0);
            block = map(keeper, size, kind);
        }
        if (!block) return nullptr;
    }
    keeper.used += block->size;
    keeper.most = std::max(keeper.most, keeper.used);
    return reinterpret_cast<char *>(block) + HEAD;
}

void give(void *data) {
    if (!data) return;
    Block *block = reinterpret_cast<Block *>(static_cast<char *>(data) - HEAD);
    if (!block->size) {
        free(block->start);
        return;
    }
    Keeper &keeper = ::keeper();
    const std::lock_guard<std::mutex> held(keeper.lock);
    keeper.used -= block->size;
    if (block->size > keeper.limit) {
        munmap(block->start, block->size);
        return;
    }
    put_in(keeper, block);
    keep_at_most(keeper, keeper.limit);
}

struct Keeping final : c10::Allocator {
    c10::DataPtr allocate(size_t num_bytes) override {
        const c10::Device cpu(c10::DeviceType::CPU);
        if (!num_bytes) return {nullptr, nullptr, &give, cpu};
        char *data = nullptr;
        if (num_bytes <= SIZE_MAX / 4)
            data = num_bytes < LARGE ? small(num_bytes) : large(num_bytes);
        if (!data && num_bytes >= LARGE && num_bytes <= SIZE_MAX / 4)
            data = small(num_bytes);  // a process may have only so many mappings
        TORCH_CHECK(data, "can't allocate memory: you tried to allocate ", num_bytes, " bytes.");
        return {data, data, &give, cpu};
    }
    c10::DeleterFnPtr raw_deleter() const override { return &give; }
    void copy_data(void *to, const void *from, size_t num_bytes) const override {
        default_copy_data(to, from, num_bytes);
    }
};

}  // namespace

extern "C" {

// Makes this torch's allocator from now on; what others have given out goes back to them.
void keep_memory() {
    static Keeping *one = new Keeping;
    static const int at_fork = pthread_atfork(  // once: the lock cannot be taken twice
        [] { keeper().lock.lock(); }, [] { keeper().lock.unlock(); },
        [] { keeper().lock.unlock(); });
    (void)at_fork;
    c10::SetCPUAllocator(one, 1);
}

// Gives back what is kept, and forgets how much was used before.
void give_back() {
    Keeper &keeper = ::keeper();
    const std::lock_guard<std::mutex> held(keeper.lock);
    keep_at_most(keeper, 0);
    keeper.most = keeper.used;
}

// Keeps at most so many bytes from now on.
void limit_kept(int64_t num_bytes) {
    Keeper &keeper = ::keeper();
    const std::lock_guard<std::mutex> held(keeper.lock);
    keeper.limit = size_t(num_bytes);
    keep_at_most(keeper, keeper.limit);
}

// Writes the bytes of the blocks that are used, that are kept, and that were used at most.
void memory_now(int64_t *found) {
    Keeper &keeper = ::keeper();
    const std::lock_guard<std::mutex> held(keeper.lock);
    found[0] = keeper.used;
    found[1] = keeper.kept;
    found[2] = keeper.most;
}
}
