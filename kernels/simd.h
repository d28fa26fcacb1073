/* What Cython cannot say: a vector type and the dozen operations on it that C has no operator for.
 *
 * The extension chooses GS_VECTOR_BYTES (16, 32, 64) and GS_DOUBLE; `real` is then one lane and `gs_vf` one vector, on
 * which + - * / and unary minus work as on numbers. Products and sums never fuse by themselves (-ffp-contract=off):
 * gs_muladd is the only multiply-add, so that a result depends on the source alone. gcc and clang, x86 and aarch64.
 */
#ifndef GATESTEP_SIMD_H
#define GATESTEP_SIMD_H
#include <stddef.h>
#include <stdint.h>
#include "abi.h"

#ifndef GS_VECTOR_BYTES
#define GS_VECTOR_BYTES 16
#endif
#ifndef GS_DOUBLE
#define GS_DOUBLE 0
#endif
/* Bits of a weight in the kernels of a precision tier whose weights are whole numbers, else 0. */
#ifndef GS_TIER
#define GS_TIER 0
#endif
/* The largest whole number of a row in such kernels. */
#ifndef GS_LARGEST
#define GS_LARGEST 0
#endif
/* Whether the numbers of a row stand for what is above and below its middle: worth it where they are few. */
#define GS_CENTRED (GS_LARGEST == 127)
/* Whether weights are bfloat16, the upper halves of floats. */
#ifndef GS_BFLOAT
#define GS_BFLOAT 0
#endif

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#if GS_DOUBLE
typedef double real;
typedef int64_t gs_int;
#define GS_MANTISSA 52
#define GS_BIAS 1023
#define GS_ROUNDER 6755399441055744.0 /* 1.5 * 2^52: adding it leaves the nearest integer in the low bits */
#else
typedef float real;
typedef int32_t gs_int;
#define GS_MANTISSA 23
#define GS_BIAS 127
#define GS_ROUNDER 12582912.0
#endif

#define GS_LANES ((ptrdiff_t)(GS_VECTOR_BYTES / sizeof(real)))
/* Vectors in a block of GS_BLOCK lanes. */
#define GS_SPLIT (GS_BLOCK / GS_LANES)
/* Whether weights of 8 bits are multiplied as they are. */
#if GS_TIER == 8 && GS_VECTOR_BYTES == 64 && defined(__AVX512VNNI__)
#define GS_BYTES 1
#else
#define GS_BYTES 0
#endif
/* Rows that share one pass over the weights: as many as leave their accumulators in registers; of integers, with the sums in reals
 * that they are added to. */
#if GS_BYTES
#define GS_ROWS 3
#elif GS_VECTOR_BYTES == 64 || defined(__aarch64__)
#define GS_ROWS 4
#elif GS_VECTOR_BYTES == 32
#define GS_ROWS 3
#else
#define GS_ROWS 2
#endif

typedef real gs_vf __attribute__((vector_size(GS_VECTOR_BYTES)));
typedef gs_int gs_vi __attribute__((vector_size(GS_VECTOR_BYTES)));
typedef real gs_anywhere __attribute__((vector_size(GS_VECTOR_BYTES), aligned(sizeof(real)), may_alias));
typedef real gs_aligned __attribute__((vector_size(GS_VECTOR_BYTES), may_alias));

#define GS_INLINE static inline __attribute__((always_inline, unused))
/* A tile is written once and specialised by constant arguments: that needs every inline function of Cython inlined. */
#undef CYTHON_INLINE
#define CYTHON_INLINE inline __attribute__((always_inline, unused))

GS_INLINE gs_vf gs_splat(real x) { return x - (gs_vf){0}; }
GS_INLINE gs_vf gs_load(const real *p) { return *(const gs_anywhere *)p; }
GS_INLINE gs_vf gs_load_aligned(const real *p) { return *(const gs_aligned *)p; }
GS_INLINE void gs_store(real *p, gs_vf v) { *(gs_anywhere *)p = v; }
GS_INLINE real gs_get(gs_vf v, ptrdiff_t lane) { return v[lane]; }
GS_INLINE gs_vf gs_put(gs_vf v, ptrdiff_t lane, real x) { v[lane] = x; return v; }
GS_INLINE gs_vf gs_abs(gs_vf v) {
    return (gs_vf)((gs_vi)v & ~((gs_vi){0} + ((gs_int)1 << (8 * sizeof(gs_int) - 1))));
}
/* 2^n from the bits of n + GS_ROUNDER + GS_BIAS, for -GS_BIAS < n <= GS_BIAS + 1 (the last gives infinity). */
GS_INLINE gs_vf gs_power(gs_vf n) { return (gs_vf)((gs_vi)n << GS_MANTISSA); }

/* A weight vector that several rows share: gcc would otherwise read it again from memory for each of them. */
GS_INLINE gs_vf gs_load_once(const real *p) {
    gs_vf v = gs_load_aligned(p);
#if defined(__x86_64__)
    __asm__("" : "+v"(v));
#elif defined(__aarch64__)
    __asm__("" : "+w"(v));
#endif
    return v;
}

/* To memory here and now. A sum that stayed in a register until after a function call would be kept on the stack all along,
 * and every addition to it would go through memory. */
GS_INLINE void gs_put_down(gs_vf *p, gs_vf v) { *(volatile gs_vf *)p = v; }

/* gs_min(a, b) is b unless a < b, gs_max(a, b) is b unless a > b: a NaN in b stays. */
#if defined(__x86_64__)
#if GS_VECTOR_BYTES == 64
#define GS_PREFIX _mm512
#elif GS_VECTOR_BYTES == 32
#define GS_PREFIX _mm256
#else
#define GS_PREFIX _mm
#endif
#define GS_PASTE3(a, b, c) a##_##b##_##c
#define GS_PASTE(a, b, c) GS_PASTE3(a, b, c)
#if GS_DOUBLE
#define GS_OP(name) GS_PASTE(GS_PREFIX, name, pd)
#else
#define GS_OP(name) GS_PASTE(GS_PREFIX, name, ps)
#endif
GS_INLINE gs_vf gs_min(gs_vf a, gs_vf b) { return (gs_vf)GS_OP(min)(a, b); }
GS_INLINE gs_vf gs_max(gs_vf a, gs_vf b) { return (gs_vf)GS_OP(max)(a, b); }
GS_INLINE gs_vf gs_sqrt(gs_vf a) { return (gs_vf)GS_OP(sqrt)(a); }
#elif defined(__aarch64__)
#if GS_DOUBLE
#define GS_OP(name) name##_f64
#else
#define GS_OP(name) name##_f32
#endif
GS_INLINE gs_vf gs_min(gs_vf a, gs_vf b) { return (gs_vf)GS_OP(vminq)(a, b); }
GS_INLINE gs_vf gs_max(gs_vf a, gs_vf b) { return (gs_vf)GS_OP(vmaxq)(a, b); }
GS_INLINE gs_vf gs_sqrt(gs_vf a) { return (gs_vf)GS_OP(vsqrtq)(a); }
#else
GS_INLINE gs_vf gs_min(gs_vf a, gs_vf b) { gs_vi m = a < b; return (gs_vf)((m & (gs_vi)a) | (~m & (gs_vi)b)); }
GS_INLINE gs_vf gs_max(gs_vf a, gs_vf b) { gs_vi m = a > b; return (gs_vf)((m & (gs_vi)a) | (~m & (gs_vi)b)); }
GS_INLINE gs_vf gs_sqrt(gs_vf a) {
    for (ptrdiff_t i = 0; i < GS_LANES; i++) a[i] = (real)__builtin_sqrt(a[i]);
    return a;
}
#endif

/* a * b + c, fused where the machine can. */
#if defined(__FMA__)
GS_INLINE gs_vf gs_muladd(gs_vf a, gs_vf b, gs_vf c) { return (gs_vf)GS_OP(fmadd)(a, b, c); }
#elif defined(__aarch64__)
GS_INLINE gs_vf gs_muladd(gs_vf a, gs_vf b, gs_vf c) { return (gs_vf)GS_OP(vfmaq)(c, a, b); }
#else
GS_INLINE gs_vf gs_muladd(gs_vf a, gs_vf b, gs_vf c) { return a * b + c; }
#endif

/* Comparisons give a gs_mask; a comparison with NaN is false. gs_select takes a where the mask is set, b elsewhere. */
#if GS_VECTOR_BYTES == 64 && defined(__AVX512F__)
#if GS_DOUBLE
typedef __mmask8 gs_mask;
#define GS_CMP _mm512_cmp_pd_mask
#else
typedef __mmask16 gs_mask;
#define GS_CMP _mm512_cmp_ps_mask
#endif
GS_INLINE gs_mask gs_lt(gs_vf a, gs_vf b) { return GS_CMP(a, b, _CMP_LT_OQ); }
GS_INLINE gs_mask gs_le(gs_vf a, gs_vf b) { return GS_CMP(a, b, _CMP_LE_OQ); }
GS_INLINE gs_vf gs_select(gs_mask m, gs_vf a, gs_vf b) { return (gs_vf)GS_OP(mask_blend)(m, b, a); }
#else
typedef gs_vi gs_mask;
GS_INLINE gs_mask gs_lt(gs_vf a, gs_vf b) { return a < b; }
GS_INLINE gs_mask gs_le(gs_vf a, gs_vf b) { return a <= b; }
GS_INLINE gs_vf gs_select(gs_mask m, gs_vf a, gs_vf b) { return (gs_vf)((m & (gs_vi)a) | (~m & (gs_vi)b)); }
#endif

/* The first `count` lanes (1 <= count < GS_LANES) and nothing behind them; the rest reads as zero. */
#if GS_VECTOR_BYTES == 64 && defined(__AVX512F__)
GS_INLINE gs_vf gs_load_part(const real *p, ptrdiff_t count) {
    return (gs_vf)GS_OP(maskz_loadu)((gs_mask)((1u << count) - 1), p);
}
GS_INLINE void gs_store_part(real *p, gs_vf v, ptrdiff_t count) {
    GS_OP(mask_storeu)(p, (gs_mask)((1u << count) - 1), v);
}
#elif GS_VECTOR_BYTES == 32 && defined(__AVX2__)
GS_INLINE __m256i gs_first(ptrdiff_t count) {
    static const gs_int ends[16] = {-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0};
    return _mm256_loadu_si256((const __m256i *)(ends + 8 - count));
}
GS_INLINE gs_vf gs_load_part(const real *p, ptrdiff_t count) { return (gs_vf)GS_OP(maskload)(p, gs_first(count)); }
GS_INLINE void gs_store_part(real *p, gs_vf v, ptrdiff_t count) { GS_OP(maskstore)(p, gs_first(count), v); }
#else
GS_INLINE gs_vf gs_load_part(const real *p, ptrdiff_t count) {
    gs_vf v = {0};
    for (ptrdiff_t i = 0; i < count; i++) v[i] = p[i];
    return v;
}
GS_INLINE void gs_store_part(real *p, gs_vf v, ptrdiff_t count) {
    for (ptrdiff_t i = 0; i < count; i++) p[i] = v[i];
}
#endif

/* Products of whole numbers: weights of GS_TIER bits, rows that reach to GS_LARGEST. A lane of a vector of weights holds two ks of
 * 16 bits, or four of 8 with 128 added, in the order 0 2 1 3: that makes pairs of every other byte. A row meets it in GS_PARTS
 * vectors: with VNNI its bytes (GS_BYTES), the lower ones first, else its pairs. */
#define GS_PARTS (GS_TIER == 8 && !(GS_BYTES && GS_LARGEST == 127) ? 2 : 1)
GS_INLINE gs_vi gs_no_sums(void) { return (gs_vi){0}; }
#if GS_TIER
typedef uint32_t gs_vu __attribute__((vector_size(GS_VECTOR_BYTES)));
typedef uint16_t gs_vs __attribute__((vector_size(GS_VECTOR_BYTES)));
typedef int16_t gs_narrow __attribute__((vector_size(GS_VECTOR_BYTES / 2), aligned(2), may_alias));
GS_INLINE gs_vi gs_everywhere(int32_t a) { return (gs_vi){0} + a; }
GS_INLINE gs_vi gs_weights(const char *p) { return (gs_vi)gs_load_aligned((const real *)p); }
/* Part `part` of the inputs that meet vector `k` of weights: of a row at `q`, whose halves are `stride` bytes long. */
GS_INLINE gs_vi gs_inputs(const int16_t *q, ptrdiff_t stride, ptrdiff_t k, int part) {
    int32_t both;
#if GS_BYTES
    __builtin_memcpy(&both, (const char *)q + part * stride + 4 * k, sizeof both);
#else
    (void)stride;
    __builtin_memcpy(&both, q + 2 * (GS_PARTS * k + part), sizeof both);
#endif
    return gs_everywhere(both);
}
/* sums + a[2i] * b[2i] + a[2i+1] * b[2i+1] in lane i. */
GS_INLINE gs_vi gs_dot(gs_vi sums, gs_vs a, gs_vs b) {
#if GS_VECTOR_BYTES == 64 && defined(__AVX512BW__)
    return (gs_vi)((gs_vu)sums + (gs_vu)_mm512_madd_epi16((__m512i)a, (__m512i)b));
#elif GS_VECTOR_BYTES == 32 && defined(__AVX2__)
    return (gs_vi)((gs_vu)sums + (gs_vu)_mm256_madd_epi16((__m256i)a, (__m256i)b));
#elif defined(__x86_64__)
    return (gs_vi)((gs_vu)sums + (gs_vu)_mm_madd_epi16((__m128i)a, (__m128i)b));
#elif defined(__aarch64__)
    int32x4_t low = vmull_s16(vget_low_s16((int16x8_t)a), vget_low_s16((int16x8_t)b));
    return (gs_vi)((gs_vu)sums + (gs_vu)vpaddq_s32(low, vmull_high_s16((int16x8_t)a, (int16x8_t)b)));
#else
    for (ptrdiff_t i = 0; i < GS_LANES; i++)
        for (ptrdiff_t k = 2 * i; k < 2 * i + 2; k++) sums[i] = (int32_t)((uint32_t)sums[i] + (uint32_t)((int16_t)a[k] * (int16_t)b[k]));
    return sums;
#endif
}
GS_INLINE gs_vi gs_add_part(gs_vi sums, gs_vi weights, gs_vi inputs, int part) {
#if GS_BYTES
    (void)part;
    return (gs_vi)_mm512_dpbusd_epi32((__m512i)sums, (__m512i)weights, (__m512i)inputs);
#elif GS_TIER == 8
    return gs_dot(sums, part ? (gs_vs)weights >> 8 : (gs_vs)weights & 255, (gs_vs)inputs);
#else
    (void)part;
    return gs_dot(sums, (gs_vs)weights, (gs_vs)inputs);
#endif
}
/* `lower` and 256 times `upper`. */
GS_INLINE gs_vi gs_joined(gs_vi lower, gs_vi upper) { return (gs_vi)((gs_vu)lower + ((gs_vu)upper << 8)); }
GS_INLINE gs_vf gs_real(gs_vi a) { return __builtin_convertvector(a, gs_vf); }
/* All bits of the first `count` lanes. */
GS_INLINE gs_vi gs_before(int32_t count) {
    gs_vi lanes = {0};
    for (int32_t i = 0; i < GS_LANES; i++) lanes[i] = i;
    return lanes < count;
}
/* Sum and maximum of all lanes. */
GS_INLINE uint32_t gs_total(gs_vu v) {
#if GS_VECTOR_BYTES == 64
    return (uint32_t)_mm512_reduce_add_epi32((__m512i)v);
#else
    uint32_t total = 0;
    for (ptrdiff_t i = 0; i < GS_LANES; i++) total += v[i];
    return total;
#endif
}
GS_INLINE int32_t gs_most(gs_vi v) {
#if GS_VECTOR_BYTES == 64
    return _mm512_reduce_max_epi32((__m512i)v);
#else
    int32_t most = v[0];
    for (ptrdiff_t i = 1; i < GS_LANES; i++) most = v[i] > most ? v[i] : most;
    return most;
#endif
}
/* What the largest whole number of a row stands for: its largest magnitude, or half of the range of its elements and 0, whose middle
 * then is `middle`. Infinity or NaN, if one of them is there. */
GS_INLINE real gs_spread(const real *x, ptrdiff_t size, real *middle) {
    gs_vi most = {0};
    gs_vf high = {0}, low = {0};
    for (ptrdiff_t k = 0; k < size; k += GS_LANES) {
        gs_vf v = size - k >= GS_LANES ? gs_load(x + k) : gs_load_part(x + k, size - k);
        /* Without a sign, the bits of reals are in the order of reals, and NaN above all of them. */
        gs_vi bits = (gs_vi)gs_abs(v), more = bits > most;
        most = (more & bits) | (~more & most);
        if (GS_CENTRED) high = gs_max(high, v), low = gs_min(low, v);
    }
    int32_t largest = gs_most(most);
    real found;
    __builtin_memcpy(&found, &largest, sizeof found);
    *middle = 0;
    if (!GS_CENTRED || found - found != 0) return found;
    /* Magnitudes are positive, and so in the order of their bits, too. */
    int32_t above = gs_most((gs_vi)high), below = gs_most((gs_vi)-low);
    real up, down;
    __builtin_memcpy(&up, &above, sizeof up);
    __builtin_memcpy(&down, &below, sizeof down);
    *middle = up * (real)0.5 - down * (real)0.5;
    return up * (real)0.5 + down * (real)0.5;
}
/* `size` numbers less `middle`, times `factor`, to the nearest, at `q`; in `offsets`, for every GS_EXACT of them, what is to be added to their
 * products with weights that are 128 too large. */
GS_INLINE void gs_quantise(
    const real *x, ptrdiff_t size, real middle, real factor, int16_t *q, ptrdiff_t stride, int32_t *offsets
) {
    gs_vu total = {0};
    for (ptrdiff_t k = 0; k < size; k += GS_LANES) {
        gs_vf v = size - k >= GS_LANES ? gs_load(x + k) : gs_load_part(x + k, size - k);
        if (GS_CENTRED) v = v - gs_splat(middle);
        gs_vi whole = (gs_vi)(v * gs_splat(factor) + gs_splat(GS_ROUNDER)) - (gs_vi)gs_splat(GS_ROUNDER);
        if (GS_CENTRED && size - k < GS_LANES) whole &= gs_before((int32_t)(size - k));
#if GS_BYTES
        const __m128i order = _mm_setr_epi8(0, 2, 1, 3, 4, 6, 5, 7, 8, 10, 9, 11, 12, 14, 13, 15);
        __m128i *bytes = (__m128i *)((char *)q + k);
        _mm_storeu_si128(bytes, _mm_shuffle_epi8(_mm512_cvtepi32_epi8((__m512i)whole), order));
        if (GS_PARTS == 2) {
            __m512i upper = (__m512i)((whole + 128) >> 8);
            bytes = (__m128i *)((char *)q + stride + k);
            _mm_storeu_si128(bytes, _mm_shuffle_epi8(_mm512_cvtepi32_epi8(upper), order));
        }
#else
        (void)stride;
        *(gs_narrow *)(q + k) = __builtin_convertvector(whole, gs_narrow);
#endif
        if (GS_TIER == 8) {
            total += (gs_vu)whole;
            if ((k + GS_LANES) % GS_EXACT == 0 || size - k <= GS_LANES) {
                offsets[k / GS_EXACT] = (int32_t)(gs_total(total) * -128u);
                total = (gs_vu){0};
            }
        }
    }
}
#else
GS_INLINE gs_vi gs_everywhere(int32_t a) { (void)a; return (gs_vi){0}; }
GS_INLINE gs_vi gs_weights(const char *p) { (void)p; return (gs_vi){0}; }
GS_INLINE gs_vi gs_inputs(const int16_t *q, ptrdiff_t stride, ptrdiff_t k, int part) {
    (void)q; (void)stride; (void)k; (void)part;
    return (gs_vi){0};
}
GS_INLINE gs_vi gs_add_part(gs_vi sums, gs_vi weights, gs_vi inputs, int part) {
    (void)weights; (void)inputs; (void)part;
    return sums;
}
GS_INLINE gs_vi gs_joined(gs_vi lower, gs_vi upper) { (void)upper; return lower; }
GS_INLINE gs_vf gs_real(gs_vi a) { (void)a; return (gs_vf){0}; }
GS_INLINE real gs_spread(const real *x, ptrdiff_t size, real *middle) { (void)x; (void)size; (void)middle; return 0; }
GS_INLINE void gs_quantise(
    const real *x, ptrdiff_t size, real middle, real factor, int16_t *q, ptrdiff_t stride, int32_t *offsets
) {
    (void)x; (void)size; (void)middle; (void)factor; (void)q; (void)stride; (void)offsets;
}
#endif
GS_INLINE gs_vf gs_upper_halves(const char *p) {
#if GS_VECTOR_BYTES == 64 && defined(__AVX512F__)
    return (gs_vf)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_load_si256((const __m256i *)p)), 16);
#elif GS_VECTOR_BYTES == 32 && defined(__AVX2__)
    return (gs_vf)_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_load_si128((const __m128i *)p)), 16);
#else
    gs_vi v = {0};
    for (ptrdiff_t i = 0; i < GS_LANES; i++) v[i] = (gs_int)((uint32_t)((const uint16_t *)p)[i] << 16);
    return (gs_vf)v;
#endif
}

/* Denormal numbers are read and written as zero between the two: silence after a burst must not slow a stream down. */
#if defined(__x86_64__)
GS_INLINE uint64_t gs_ftz_on(void) {
    uint32_t old = _mm_getcsr();
    _mm_setcsr(old | 0x8040u);  /* without asking whether it is so: a branch beside this took up to 30 ns of a step */
    return old;
}
GS_INLINE void gs_ftz_restore(uint64_t old) { _mm_setcsr((uint32_t)old); }
#elif defined(__aarch64__)
GS_INLINE uint64_t gs_ftz_on(void) {
    uint64_t old;
    __asm__ volatile("mrs %0, fpcr" : "=r"(old));
    __asm__ volatile("msr fpcr, %0" : : "r"(old | (UINT64_C(1) << 24)) : "memory");
    return old;
}
GS_INLINE void gs_ftz_restore(uint64_t old) { __asm__ volatile("msr fpcr, %0" : : "r"(old) : "memory"); }
#else
GS_INLINE uint64_t gs_ftz_on(void) { return 0; }
GS_INLINE void gs_ftz_restore(uint64_t old) { (void)old; }
#endif

#endif
