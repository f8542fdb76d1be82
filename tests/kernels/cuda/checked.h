// What compute-sanitizer looks for, on a processor. The compiler calls these before every access to memory
// (-fsanitize=thread, linked without its library); accesses to shared memory are held to the launch: inside its
// bytes, aligned, written before read, and ordered by a barrier, or in a warp by one of its instructions.

#define QUIET __attribute__((no_sanitize_thread))

namespace host {
enum Fault { OUTSIDE, MISALIGNED, UNWRITTEN, RACE };
constexpr int MANY = -1;  // threads of several warps
struct Access {
    int epoch, turn, warp, thread;
};
struct Word {
    Access write, read;
};
static Word words[sizeof(memory) / 4];
static long long faults[4];
static int limit = sizeof(memory), epoch, turns[MOST / 32];

QUIET static bool unordered(const Access& other, const Access& mine) {
    if (other.epoch != mine.epoch || other.thread == mine.thread) return false;
    return other.warp != mine.warp || other.turn == mine.turn;
}

QUIET static void touch(const void* address, int size, bool write, bool aligned) {
    const long long at = static_cast<const char*>(address) - memory;
    if (at < 0 || at >= static_cast<long long>(sizeof(memory))) {
        faults[MISALIGNED] += aligned && reinterpret_cast<uintptr_t>(address) % size != 0;
        return;
    }
    faults[OUTSIDE] += at + size > limit;
    faults[MISALIGNED] += aligned && at % size != 0;
    const int warp = threadIdx.x / 32;
    const Access mine = {epoch, turns[warp], warp, threadIdx.x};
    for (int i = at / 4; i <= (at + size - 1) / 4; ++i) {
        Word& word = words[i];
        if (!write) faults[UNWRITTEN] += word.write.epoch == 0;
        faults[RACE] += unordered(word.write, mine);
        if (write) {
            faults[RACE] += unordered(word.read, mine);
            word.write = mine;
            continue;
        }
        const bool shared = word.read.epoch == epoch && word.read.thread != mine.thread;
        word.read = {epoch, mine.turn, shared && word.read.warp != warp ? MANY : warp, shared ? MANY : mine.thread};
    }
}

static void begin() {
    std::memset(words, 0, sizeof(words));
    std::memset(turns, 0, sizeof(turns));
    epoch = 0;
}
static void barrier() { ++epoch; }
static void together(int warp) { ++turns[warp]; }
static void rows_at(u32 address) { faults[MISALIGNED] += address % 16 != 0; }  // of instructions for 16 bytes
}  // namespace host

extern "C" {
QUIET void __tsan_init() {}
QUIET void __tsan_func_entry(void*) {}
QUIET void __tsan_func_exit() {}
QUIET void __tsan_read_range(void* p, unsigned long n) { host::touch(p, n, false, false); }
QUIET void __tsan_write_range(void* p, unsigned long n) { host::touch(p, n, true, false); }
#define HOOKS(n)                                                              \
    QUIET void __tsan_read##n(void* p) { host::touch(p, n, false, true); }          \
    QUIET void __tsan_write##n(void* p) { host::touch(p, n, true, true); }          \
    QUIET void __tsan_unaligned_read##n(void* p) { host::touch(p, n, false, n > 1); } \
    QUIET void __tsan_unaligned_write##n(void* p) { host::touch(p, n, true, n > 1); }
HOOKS(1) HOOKS(2) HOOKS(4) HOOKS(8) HOOKS(16)
// of -fsanitize=alignment: vectors are split before the calls above are made
QUIET void __ubsan_handle_type_mismatch_v1(void*, unsigned long) { ++host::faults[host::MISALIGNED]; }
long long fault(int kind) {
    const long long count = host::faults[kind];
    host::faults[kind] = 0;
    return count;
}
void limit_to(int bytes) { host::limit = bytes; }
}
