// Thread blocks of CUDA C++ on a processor. Every thread has a stack of its own; threads of a warp wait for
// each other at an instruction of the whole warp, and warps, run one after the other in either order, at a
// barrier of the block. What a kernel reads before it wrote it is NaN.

#include <cmath>
#include <cstdint>
#include <cstring>
#include <ucontext.h>
#include <utility>
#include <vector>

#define __device__
#define __global__
#define __shared__
#define __forceinline__ inline
#define __align__(bytes)
#define __launch_bounds__(threads, resident)

typedef unsigned int u32;
struct alignas(8) uint2 {
    u32 x, y;
};
struct alignas(16) uint4 {
    u32 x, y, z, w;
};
struct Index {
    int x;
};

alignas(128) char memory[1 << 18];
static Index threadIdx, blockIdx;
static long long conflicts;

namespace host {
constexpr int MOST = 256, STACK = 1 << 16;
enum State { READY, WARP, BLOCK, DONE };
struct Thread {
    ucontext_t context;
    State state;
    int turn;                 // of the two sets of what it shows to its warp
    u32 shown[2][6];
};
static Thread threads[MOST];
static char stacks[MOST][STACK];
static ucontext_t scheduler;
}  // namespace host

#ifdef CHECKED
#include CHECKED
#else
namespace host {
static void begin() {}
static void barrier() {}
static void together(int) {}
static void rows_at(u32) {}
}  // namespace host
#endif

namespace host {
static void wait(State state) {
    Thread& me = threads[threadIdx.x];
    me.state = state;
    swapcontext(&me.context, &scheduler);
}

// Shows words to the warp; returns the turn in which the others are to be read.
static int show(const u32* words, int count) {
    Thread& me = threads[threadIdx.x];
    const int turn = me.turn;
    me.turn = 1 - turn;
    std::memcpy(me.shown[turn], words, 4 * count);
    wait(WARP);
    return turn;
}

static u32 seen(int turn, int lane, int word) { return threads[threadIdx.x / 32 * 32 + lane].shown[turn][word]; }

static bool step(int warp, State from) {
    bool any = false;
    for (int lane = 0; lane < 32; ++lane) {
        Thread& thread = threads[warp * 32 + lane];
        if (thread.state != from) continue;
        any = true;
        threadIdx.x = warp * 32 + lane;
        thread.state = READY;
        swapcontext(&scheduler, &thread.context);
    }
    return any;
}

static void run(void (*entry)(), int count, int order) {
    std::memset(memory, 0xff, sizeof(memory));
    for (int i = 0; i < count; ++i) {
        Thread& thread = threads[i];
        getcontext(&thread.context);
        thread.context.uc_stack.ss_sp = stacks[i];
        thread.context.uc_stack.ss_size = STACK;
        thread.context.uc_link = &scheduler;
        thread.state = READY;
        thread.turn = 0;
        makecontext(&thread.context, entry, 0);
    }
    State from = READY;
    begin();
    for (bool any = true; any; from = BLOCK) {
        any = false;
        barrier();
        for (int i = 0; i < count / 32; ++i) {
            const int warp = order > 0 ? i : count / 32 - 1 - i;
            any |= step(warp, from);
            do together(warp);
            while (step(warp, WARP));
        }
    }
}

template <class... A, std::size_t... I>
static void call(void (*kernel)(A...), void** arguments, std::index_sequence<I...>) {
    kernel(*static_cast<A*>(arguments[I])...);
}

template <class... A>
static void call(void (*kernel)(A...), void** arguments) {
    call(kernel, arguments, std::index_sequence_for<A...>());
}

static float value(u32 pair, int half) {
    const u32 bits = half ? pair & 0xffff0000u : pair << 16;
    float x;
    std::memcpy(&x, &bits, 4);
    return x;
}
}  // namespace host

static inline float __uint_as_float(u32 bits) {
    float x;
    std::memcpy(&x, &bits, 4);
    return x;
}
static inline u32 __float_as_uint(float x) {
    u32 bits;
    std::memcpy(&bits, &x, 4);
    return bits;
}
static inline float __int_as_float(int bits) { return __uint_as_float(bits); }
static inline int __float_as_int(float x) { return __float_as_uint(x); }
static inline u32 __umulhi(u32 a, u32 b) { return static_cast<uint64_t>(a) * b >> 32; }
static inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
static inline float __fmul_rn(float a, float b) { return a * b; }
static inline float __fadd_rn(float a, float b) { return a + b; }
static inline float __uint2float_rn(u32 word) { return word; }
static inline uint2 make_uint2(u32 x, u32 y) { return {x, y}; }
static inline uint4 make_uint4(u32 x, u32 y, u32 z, u32 w) { return {x, y, z, w}; }
template <class T> static T __ldg(const T* place) { return *place; }
static inline std::size_t __cvta_generic_to_shared(const char* place) { return place - memory; }
static inline void __syncthreads() { host::wait(host::BLOCK); }
static inline void atomicAdd(unsigned long long* place, unsigned long long one) { *place += one; }

template <class T> static T __shfl_sync(u32, T x, int lane) {
    u32 word;
    std::memcpy(&word, &x, 4);
    const int turn = host::show(&word, 1);
    word = host::seen(turn, lane, 0);
    std::memcpy(&x, &word, 4);
    return x;
}
template <class T> static T __shfl_xor_sync(u32 all, T x, int mask) {
    return __shfl_sync(all, x, threadIdx.x % 32 ^ mask);
}

static inline bool __all_sync(u32, bool x) {
    const u32 word = x;
    const int turn = host::show(&word, 1);
    bool all = true;
    for (int lane = 0; lane < 32; ++lane) all = all && host::seen(turn, lane, 0);
    return all;
}

// Thread l has the address of row l % 8 of matrix l / 8; rows of a matrix in one bank are conflicts.
static inline void load_matrix(u32 (&a)[4], u32 address) {
    host::rows_at(address);
    const int turn = host::show(&address, 1), lane = threadIdx.x % 32;
    for (int j = 0; j < 4; ++j) {
        std::memcpy(&a[j], memory + host::seen(turn, 8 * j + lane / 4, 0) + lane % 4 * 4, 4);
        if (lane > 0) continue;
        u32 banks = 0;
        for (int row = 0; row < 8; ++row) banks |= 1u << host::seen(turn, 8 * j + row, 0) / 16 % 8;
        conflicts += 8 - __builtin_popcount(banks);
    }
}

struct Copy {
    u32 address;
    const uint4* source;
    bool inside;
};
static std::vector<Copy> copies[host::MOST];  // of each thread, under way
static inline void copy_async(u32 address, const uint4* source, bool inside) {
    copies[threadIdx.x].push_back({address, source, inside});
}
static inline void wait_copies() {
    for (const Copy& copy : copies[threadIdx.x]) {
        const uint4 value = copy.inside ? *copy.source : uint4{};
        host::rows_at(copy.address);
        std::memcpy(memory + copy.address, &value, 16);
    }
    copies[threadIdx.x].clear();
}

static inline void multiply(float (&d)[4], const u32 (&a)[4], const u32 (&b)[2]) {
    const u32 mine[6] = {a[0], a[1], a[2], a[3], b[0], b[1]};
    const int turn = host::show(mine, 6), lane = threadIdx.x % 32;
    for (int i = 0; i < 4; ++i) {
        const int column = lane % 4 * 2 + i % 2;
        for (int k = 0; k < 16; ++k) {
            const u32 left = host::seen(turn, lane / 4 * 4 + k % 8 / 2, i / 2 + k / 8 * 2);
            const u32 right = host::seen(turn, column * 4 + k % 8 / 2, 4 + k / 8);
            d[i] += host::value(left, k % 2) * host::value(right, k % 2);
        }
    }
}

static inline u32 load_word(u32 address) {
    u32 word;
    std::memcpy(&word, memory + address, 4);
    return word;
}
static inline void store_word(u32 address, u32 word) { std::memcpy(memory + address, &word, 4); }

static inline u32 rounded(float x) {
    const u32 bits = __float_as_uint(x);
    return x != x ? 0x7fff : (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}
static inline u32 pack(float low, float high) { return rounded(low) | rounded(high) << 16; }
static inline u32 pack_relu(float low, float high) { return pack(low < 0 ? 0 : low, high < 0 ? 0 : high); }
static inline float most(float a, float b) { return a != a || b != b ? NAN : a > b ? a : b; }
static inline u32 larger(u32 a, u32 b) {
    return pack(most(host::value(a, 0), host::value(b, 0)), most(host::value(a, 1), host::value(b, 1)));
}
static inline float square_root(float x) { return std::sqrt(x); }
static inline void forget(const uint2*&, const float*&) {}
static inline void forget(int&, int&) {}
