// The instructions of the device that C++ has no name for. tests/kernels/cuda/host.h has the same functions
// for a processor: there the tests run the kernels as they are.

typedef unsigned int u32;

__device__ __forceinline__ void load_matrix(u32 (&a)[4], u32 address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(a[0]), "=r"(a[1]), "=r"(a[2]), "=r"(a[3])
                 : "r"(address));
}

// A word of shared memory by a 32-bit address. NVRTC has 64-bit pointers there, and keeps one per row.
__device__ __forceinline__ u32 load_word(u32 address) {
    u32 word;
    asm volatile("ld.shared.u32 %0, [%1];" : "=r"(word) : "r"(address));
    return word;
}
__device__ __forceinline__ void store_word(u32 address, u32 word) {
    asm volatile("st.shared.u32 [%0], %1;" : : "r"(address), "r"(word));
}

// 16 bytes from device to shared memory, or zeros, under way until `wait_copies`.
__device__ __forceinline__ void copy_async(u32 address, const uint4* source, bool inside) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" : : "r"(address), "l"(source), "r"(inside ? 16 : 0));
}
// The thread's own copies have arrived; those of others after a barrier.
__device__ __forceinline__ void wait_copies() { asm volatile("cp.async.wait_all;" : : : "memory"); }

__device__ __forceinline__ void multiply(float (&d)[4], const u32 (&a)[4], const u32 (&b)[2]) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

__device__ __forceinline__ u32 pack(float low, float high) {
    u32 packed;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
    return packed;
}

// relu and rounding in one instruction; NaN stays NaN, so that the vote sees it.
__device__ __forceinline__ u32 pack_relu(float low, float high) {
    u32 packed;
    asm("cvt.rn.relu.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
    return packed;
}

// The larger of two pairs; NaN if one is NaN.
__device__ __forceinline__ u32 larger(u32 a, u32 b) {
    u32 most;
    asm("max.NaN.bf16x2 %0, %1, %2;" : "=r"(most) : "r"(a), "r"(b));
    return most;
}

__device__ __forceinline__ float square_root(float x) {
    float root;
    asm("sqrt.approx.ftz.f32 %0, %1;" : "=f"(root) : "f"(x));
    return root;
}

// Pointers of which a compiler no longer knows how they were made.
__device__ __forceinline__ void forget(const uint2*& first, const float*& second) {
    asm volatile("" : "+l"(first), "+l"(second));
}

// Counts that a compiler does not know.
__device__ __forceinline__ void forget(int& first, int& second) { asm volatile("" : "+r"(first), "+r"(second)); }
