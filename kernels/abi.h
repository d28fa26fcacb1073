/* The one calling convention of every kernel, whoever compiled it (Cython, Numba, a user's own).
 *
 * A kernel is an `int (*)(gs_args *)`. It returns 0; GS_JUMP, which goes on with call n[0] of the program; GS_AGAIN, which
 * does so a limited number of times; GS_BESIDE, after which the next n[0] calls run side by side; or another GS_* status, which
 * stops the program.
 * Buffers are `p`, sizes, strides and flags are `n`, scalars are `f`. Strides count elements, not bytes.
 * "Dense" means C-contiguous. `real` is float or double, fixed per kernel set.
 * No kernel allocates, locks, or writes to `gs_args`, save n[10] of the recurrent kernels (see below).
 *
 * Recurrent kernels: lstm, gru, rnn
 *   p[0] x     (T, B, I)  row (t, b) at x + t*n[5] + b*n[6], dense inside
 *   p[1] w     packed weights (kernels/pack.py)
 *   p[2] h0    (B, P) dense            p[3] c0    (B, H) dense, lstm only
 *   p[4] y     (T, B, P)  row (t, b) at y + t*n[7] + b*n[8], dense inside
 *   p[5] hn    (B, P) dense, may be h0   p[6] cn    (B, H) dense, lstm only, may be c0
 *   p[7] peepholes, packed, or NULL    p[8] projection, packed as a linear of H -> P, or NULL (then P == H)
 *   p[9] scratch: GS_SCRATCH(T, B, H) reals, 64-byte aligned (pack.scratch says the same)
 *   p[10] lengths int32 (B), or NULL: a row past its length gives y = 0 and keeps its state; a row of length 0 ends with
 *         states of 0, as ONNX Runtime has it
 *   n[0] T  n[1] B  n[2] I  n[3] H  n[4] P  n[5] n[6] x strides  n[7] n[8] y strides
 *   n[9] reverse: 1 = time runs from the last step to the first (with lengths: from length-1 to 0)
 *   n[10] zigzag parity, owned by the kernel: which end of the block list the next step starts from
 *   n[11] general: 0 = standard activations, no clip, peephole, coupling, projection or early reset (the fast path);
 *         1 = anything else
 *   n[12] n[13] n[14] activations f, g, h (GS_ACT_*)   lstm: f g h; gru: f g; rnn: f
 *   n[15] lstm coupling: 0 none, 1 f = 1 - i (ONNX), 2 i = 1 - f (TFLite);  gru: 1 = reset before the product
 *   f[0] clip of pre-activations (+inf: none)   f[1] f[2] alpha, beta of f   f[3] f[4] of g   f[5] f[6] of h
 *   y overlaps neither x nor h0. T = 0 copies the states.
 * lstm_w8, gru_w16, rnn_bfloat16, ...: the same in a precision tier (kernels/tiers.py has the packed weights, which p[8] has,
 *   too); where weights are whole numbers, p[9] goes on with GS_QUANTISED(GS_AHEAD(T, B) * B, I) and
 *   GS_QUANTISED(B, max(H, P)) reals
 *
 * Recurrent kernels and linear, on more than one thread:
 *   p[11] a gs_team, or NULL: one thread   n[16] parts that rows are cut into   n[17] parts that every pass over the weights
 *         is cut into, by outputs; where n[16] is not 1, that is. The bits are those of one thread.
 *
 * linear      y = act(x @ W + b)       p[0] x (rows, K)  p[1] packed  p[4] y (rows, N)
 *             n[0] rows  n[1] K  n[2] N  n[3] x row stride  n[4] y row stride  n[5] activation  f[0] f[1] alpha, beta
 *             linear_w8a8, linear_w8, linear_w16: p[9] scratch, GS_QUANTISED(rows, K) reals, 64-byte aligned
 * matmul      y = a @ b, both at run time    p[0] a (batch, M, K)  p[1] b (batch, K, N)  p[4] y dense
 *             n[0] batch n[1] M n[2] K n[3] N  n[4] a batch stride n[5] b batch stride
 *             n[6] a row, n[7] a column, n[8] b row, n[9] b column stride
 * depthwise   y[r, c] = b[c] + sum over k of x[r + k + c] * w[k, c], k ascending   p[0] x  p[1] w (K, C) dense
 *             p[2] b (C)  p[4] y (rows, C) dense
 *             n[0] C  n[1..3] rows, along three axes  n[4..6] their strides in x  n[7] n[8] K, along two  n[9] n[10] strides
 * unary       y = act(x)               p[0] x dense  p[4] y dense, may be x   n[0] count  n[1] activation  f[0] f[1] alpha, beta
 * binary      y = a op b, broadcast    p[0] a  p[1] b  p[4] y dense, may be a or b where their strides are dense
 *             n[0] GS_BIN_*  n[1] ndim <= 6  n[2..7] shape  n[8..13] a strides  n[14..19] b strides (0 = broadcast)
 * binary_i64  the same on int64
 * reduce      p[0] x (outer, count, inner) dense  p[4] y (outer, inner) dense
 *             n[0] outer  n[1] count  n[2] inner  n[3] GS_RED_*
 * softmax     p[0] x (rows, width) dense  p[4] y dense, may be x   n[0] rows  n[1] width  n[2] 1 = logarithm
 * layernorm   p[0] x (rows, width) dense  p[1] scale (width) or NULL  p[2] bias (width) or NULL  p[4] y dense, may be x
 *             n[0] rows  n[1] width  f[0] epsilon
 * copy        p[0] source  p[4] target   n[0] ndim <= 6  n[1..6] shape  n[7..12] source strides
 *             n[13..18] target strides  n[19] bytes per element (1, 2, 4, 8)
 * cast        p[0] x dense  p[4] y dense   n[0] count  n[1] from GS_T_*  n[2] to GS_T_*
 * check_range p[0] x int32 (count) dense   n[0] count  n[1] low  n[2] high, both allowed; anything else is GS_BAD_INDEX
 * gather      p[0] data (outer, size, inner) dense  p[1] indices int64 (count)  p[4] y (outer, count, inner) dense
 *             n[0] outer  n[1] size  n[2] inner, in bytes  n[3] count; an index outside [-size, size) is GS_BAD_INDEX
 *
 * jump        GS_JUMP where the condition is n[1] (0 or 1)   p[0] condition (one byte), or NULL: always
 *             n[0] call to go to  n[1] what the condition must be
 * count       adds n[1] to the counter, then GS_JUMP if (counter < limit) == n[2]   p[1] p[4] counter int64
 *             p[0] limit int64, or NULL: it is n[3]   n[0] call to go to  n[4] 1 = GS_AGAIN instead
 * beside      GS_BESIDE   p[11] a gs_team   n[0] how many of the calls behind it run side by side: recurrent kernels, all of them
 * copy_at     copy, at a place that a counter names   p[0], p[4], n[0..19] as copy   p[1] counter int64
 *             n[20] n[21] elements of source and target that one count moves on; the caller answers for the bounds
 *
 * compare     y = a op b, broadcast    p[0] a  p[1] b  p[4] y dense, one byte each: 0 or 1
 *             n[0] GS_CMP_*  n[1..19] as in binary  n[20] GS_T_BOOL, GS_T_I64, GS_T_F32 or GS_T_F64
 * where       p[0] condition (bytes) dense in y's shape  p[1] a  p[2] b, broadcast  p[4] y dense: a where it is not 0, else b
 *             n[0] bytes per element (1, 2, 4, 8)  n[1..19] as in binary
 * reduce_i64  p[0] x (rows, count) int64 dense  p[4] y (rows)   n[0] rows  n[1] count  n[2] GS_RED_*, not MEAN or L2
 * argmax      p[0] x (rows, width) dense, width > 0  p[4] y int64 (rows); NaN beats every number
 *             n[0] rows  n[1] width  n[2] GS_T_I64, GS_T_F32 or GS_T_F64  n[3] 1 = least  n[4] 1 = last of equal ones
 * topk        p[0] x (rows, width) dense  p[4] values (rows, k)  p[5] their places int64 (rows, k), best first
 *             n[0] rows  n[1] width  n[2] k <= width  n[3] 1 = largest  n[4] GS_T_*; of equal ones the first, NaN is largest
 * cumsum      p[0] x (outer, count, inner) dense  p[4] y the same, not x
 *             n[0] outer  n[1] count  n[2] inner  n[3] 1 = exclusive  n[4] 1 = from the end  n[5] GS_T_*
 * reverse_sequence  the first `length` steps backwards   p[0] x (batch, steps, inner) dense  p[1] lengths int64 (batch)
 *             p[4] y, not x   n[0] batch  n[1] steps  n[2] inner, in bytes; a length outside [0, steps] is GS_BAD_INDEX
 * element_index  where in an array the element lies that stands at an index's own place, but for one axis at that index
 *             p[0] indices int64 dense  p[4] y int64, the same shape   n[0] ndim <= 6  n[1..6] shape  n[7..12] strides of
 *             the array (0 along the axis)  n[13] stride and n[14] size of the axis; outside [-size, size) is GS_BAD_INDEX
 * tuple_index the place that a row of indices names   p[0] indices int64 (count, depth) dense  p[4] y int64 (count)
 *             n[0] count  n[1] depth <= 6  n[2] rows per block of the array  n[3..8] sizes; outside them is GS_BAD_INDEX
 * scatter     p[0] updates (count, inner) dense  p[1] places int64 (count), checked before  p[4] y, changed there in order
 *             n[0] count  n[1] inner  n[2] GS_SCATTER_*  n[3] GS_T_I64, GS_T_F32 or GS_T_F64  n[4] bytes per element; with
 *             GS_SCATTER_SET any type
 *
 * Quantised numbers: an integer q stands for (q - zero) * scale. `zero` is int32, dense, one for each channel, or NULL for 0.
 * quantise    y = rint(x / scale) + zero, held in y's range (NaN: its least)   p[0] x (outer, channels, inner) dense
 *             p[1] scale (channels)  p[2] zero  p[4] y dense   n[0] outer  n[1] channels  n[2] inner
 *             n[3] GS_T_U8, GS_T_I8, GS_T_U16 or GS_T_I16
 * dequantise  y = (q - zero) * scale   p[0] q (outer, channels, inner) dense  p[1] scale  p[2] zero  p[4] y dense
 *             n[0..2] as above  n[3] the same or GS_T_I32
 * centre      y = q - zero in int16   p[0] q uint8 or int8 (outer, channels, inner) dense  p[2] zero  p[4] y dense
 *             n[0..2] as above  n[3] GS_T_U8 or GS_T_I8
 * quantise_dynamically  into uint8, with the range of x and 0 as scale and zero   p[0] x (count) dense  p[4] y uint8
 *             p[5] scale (1)  p[6] zero int32 (1)   n[0] count
 * matmul_i16  y = a @ b' in int32, wrapping   p[0] a (batch, M, K) int16  p[1] b (batch, N, K) int16  p[4] y dense
 *             n[0] batch n[1] M n[2] N n[3] K  n[4] a batch, n[5] b batch, n[6] a row, n[7] b row stride; rows are dense
 * quantised_lstm  ONNX Runtime's DynamicQuantizeLSTM behind its product with x: h is quantised at every step, with the
 *             range of all its rows   p[0] products (T, B, 4H) dense, gates i o f c  p[1] r int16 (4H, H) dense, zero
 *             taken off  p[2] h0  p[3] c0  p[4] y  p[5] hn  p[6] cn, as in lstm  p[7] peepholes (3, H) dense, i o f, or NULL
 *             p[8] bias (4H) dense or NULL  p[9] scratch: 4*H + B*H reals  p[10] lengths int32 (B) or NULL
 *             p[11] scale of r (4H)   n[0] T  n[1] B  n[3] H  n[7] n[8] y strides  n[9] reverse  n[12..15] and f as in lstm
 *
 * begin       y = x, but for frames from before the recording, which are `fill`: frame j of step s is number s*rate + lead + j
 *             p[0] x (outer, frames, inner) dense  p[1] clock int64: s  p[2] fill, one element  p[4] y dense
 *             n[0] outer  n[1] frames  n[2] inner  n[3] bytes per element  n[4] rate  n[5] lead  n[6] first
 *             number that is x's
 * hold        puts a state back while the recording has not reached it   p[0] what it was  p[1] clock int64  p[4] state
 *             n[0] bytes  n[1] first step that changes it
 * tick        p[4] clock int64: one step more
 * running     reduces along frames, from step to step   p[0] x (outer, frames, inner) dense  p[4] y dense, of all frames or
 *             of the last only  p[5] what there is so far, double (outer, inner)  p[6] frames so far, one double
 *             n[0] outer  n[1] frames  n[2] inner  n[3] GS_RED_*  n[4] 1 = y of every frame  n[5] 1 = without the frame itself
 *             n[6] GS_T_F32 or GS_T_F64
 */
#ifndef GATESTEP_ABI_H
#define GATESTEP_ABI_H
#include <stddef.h>
#include <stdint.h>

#define GS_P 12
#define GS_N 24
#define GS_F 8

typedef struct gs_args {
    void *p[GS_P];
    ptrdiff_t n[GS_N];
    double f[GS_F];
} gs_args;

typedef int (*gs_kernel)(gs_args *);

enum { GS_OK = 0, GS_BAD_INDEX = 1, GS_JUMP = 2, GS_AGAIN = 3, GS_BESIDE = 4 };

/* Threads to share work with. `run` calls part(context, k) for every k < parts, in any order and side by side, and returns when
 * all have returned. `wake`: 1 = the work takes so long that sleeping threads are worth waking. */
typedef void (*gs_part)(void *context, ptrdiff_t part);
typedef struct gs_team {
    void (*run)(struct gs_team *, gs_part part, void *context, ptrdiff_t parts);
    ptrdiff_t wake;
} gs_team;

/* Every buffer of a step is padded to whole 16-lane blocks. */
#define GS_BLOCK 16
#define GS_ROW(H) (4 * (((H) + GS_BLOCK - 1) / GS_BLOCK * GS_BLOCK))
/* Steps whose sums over x are done ahead, with one pass over those weights; 1 where that is too few to gain by it. */
#define GS_MOST_AHEAD(B) (64 / (B) < 16 ? 64 / (B) : 16)
#define GS_AHEAD(T, B) ((B) < 1 || (B) > 16 || (T) < 4 ? 1 : (T) < GS_MOST_AHEAD(B) ? (T) : GS_MOST_AHEAD(B))
/* What a step needs, and what is done ahead behind it. */
#define GS_STEP_SCRATCH(B, H) ((B) * GS_ROW(H) + 64)
#define GS_SCRATCH(T, B, H) (GS_STEP_SCRATCH(B, H) + (GS_AHEAD(T, B) > 1 ? GS_AHEAD(T, B) * (B) * GS_ROW(H) : 0))
/* Products of 8 and 16 bits of which 32 bits hold the sum, whatever they are. */
#define GS_EXACT 512
/* Reals that kernels on whole numbers take behind that, for `rows` rows of `size` 16-bit integers, the scale and the middle of
 * each row, and one integer for every GS_EXACT of a row. */
#define GS_WHOLE(N, M) ((ptrdiff_t)(((size_t)(N) + (M) - 1) / (M) * (M)))
#define GS_QUANTISED(rows, size) \
    ((rows) * (GS_WHOLE(size, 32) / 2) + 2 * GS_WHOLE(rows, 16) + GS_WHOLE((rows) * (((size) + GS_EXACT - 1) / GS_EXACT), 16))

enum {
    GS_ACT_IDENTITY, GS_ACT_SIGMOID, GS_ACT_TANH, GS_ACT_RELU,
    GS_ACT_AFFINE,            /* alpha*x + beta */
    GS_ACT_LEAKY_RELU,        /* x >= 0 ? x : alpha*x */
    GS_ACT_THRESHOLDED_RELU,  /* x > alpha ? x : 0  (the recurrent operators of ONNX: x >= alpha) */
    GS_ACT_SCALED_TANH,       /* alpha*tanh(beta*x) */
    GS_ACT_HARD_SIGMOID,      /* min(max(alpha*x + beta, 0), 1) */
    GS_ACT_ELU,               /* x >= 0 ? x : alpha*(exp(x)-1) */
    GS_ACT_SOFTSIGN, GS_ACT_SOFTPLUS,
    GS_ACT_SELU,              /* beta*(x > 0 ? x : alpha*(exp(x)-1)) */
    GS_ACT_HARD_SWISH,        /* x * min(max(x/6 + 1/2, 0), 1) */
    GS_ACT_GELU, GS_ACT_GELU_TANH,
    GS_ACT_EXP, GS_ACT_LOG, GS_ACT_SQRT, GS_ACT_ABS, GS_ACT_NEG, GS_ACT_RECIPROCAL, GS_ACT_ERF,
    GS_ACT_CLIP,              /* min(max(x, alpha), beta) */
    GS_ACT_FLOOR, GS_ACT_CEIL, GS_ACT_SIGN,
    GS_ACT_SIN, GS_ACT_COS,
    GS_ACT_ROUND,             /* to the nearest integer, ties to even */
    GS_ACT_COUNT
};
enum {
    GS_BIN_ADD, GS_BIN_SUB, GS_BIN_MUL, GS_BIN_DIV, GS_BIN_POW, GS_BIN_MIN, GS_BIN_MAX, GS_BIN_PRELU,
    GS_BIN_MOD,               /* the remainder with the sign of b; 0 for integers where b = 0 */
    GS_BIN_FMOD,              /* with the sign of a */
    GS_BIN_COUNT
};
enum { GS_RED_SUM, GS_RED_MEAN, GS_RED_MAX, GS_RED_MIN, GS_RED_PROD, GS_RED_L2, GS_RED_SUM_SQUARE, GS_RED_COUNT };
enum { GS_CMP_EQUAL, GS_CMP_NOT_EQUAL, GS_CMP_LESS, GS_CMP_LESS_EQUAL, GS_CMP_AND, GS_CMP_OR, GS_CMP_COUNT };
enum { GS_SCATTER_SET, GS_SCATTER_ADD, GS_SCATTER_MUL, GS_SCATTER_MIN, GS_SCATTER_MAX, GS_SCATTER_COUNT };
enum { GS_T_BOOL, GS_T_U8, GS_T_I8, GS_T_I16, GS_T_I32, GS_T_I64, GS_T_F16, GS_T_F32, GS_T_F64,
       GS_T_U16, GS_T_U32, GS_T_COUNT };

#endif
