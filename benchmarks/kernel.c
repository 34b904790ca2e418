/* Gradient descent on the compressed problem, one tile of LANES runs at a time: the speed a core can reach.
 *
 * Compiled with -DD=width -DR=rank -DP=rows of U -DQ=rows of V, so that every loop over columns is unrolled and the
 * sums of a Gram matrix stay in registers. A tile is U (P×D) and then V (Q×D), each entry one vector of runs. */

#if defined(__AVX512F__)
#define LANES 16
#elif defined(__AVX__)
#define LANES 8
#else
#define LANES 4
#endif
#if defined(__SSE__)
#include <immintrin.h>
#endif

typedef float vec __attribute__((vector_size(4 * LANES)));
typedef vec symmetric[D * (D + 1) / 2];

#define AT(j, k) ((j) >= (k) ? (j) * ((j) + 1) / 2 + (k) : (k) * ((k) + 1) / 2 + (j))
#define UNROLL _Pragma("GCC unroll 64")

int lanes(void) { return LANES; }

static inline __attribute__((always_inline)) void gram(const vec *x, int rows, symmetric sum) {
    symmetric own;
    UNROLL for (int e = 0; e < D * (D + 1) / 2; e++) own[e] = (vec){0};
    for (int i = 0; i < rows; i++)
        UNROLL for (int j = 0; j < D; j++)
            UNROLL for (int k = 0; k <= j; k++) own[AT(j, k)] += x[i * D + j] * x[i * D + k];
    UNROLL for (int e = 0; e < D * (D + 1) / 2; e++) sum[e] = own[e];
}

/* I − step·gram, by which a factor is multiplied. */
static inline __attribute__((always_inline)) void shrink(symmetric g, float step) {
    UNROLL for (int j = 0; j < D; j++)
        UNROLL for (int k = 0; k <= j; k++) g[AT(j, k)] = (j == k ? 1.0f : 0.0f) - step * g[AT(j, k)];
}

static inline __attribute__((always_inline)) void row_times(const vec *x, const symmetric m, vec *out) {
    UNROLL for (int k = 0; k < D; k++) {
        vec sum = x[0] * m[AT(0, k)];
        UNROLL for (int j = 1; j < D; j++) sum += x[j] * m[AT(j, k)];
        out[k] = sum;
    }
}

static inline __attribute__((always_inline)) void move(vec *U, vec *V, const float *pull, float step) {
    symmetric by_U, by_V;
    gram(U, P, by_U);
    gram(V, Q, by_V);
    shrink(by_U, step);
    shrink(by_V, step);
    for (int i = 0; i < R; i++) {
        vec u[D], v[D];
        row_times(U + i * D, by_V, u);
        row_times(V + i * D, by_U, v);
        UNROLL for (int k = 0; k < D; k++) {
            u[k] += pull[i] * V[i * D + k];
            v[k] += pull[i] * U[i * D + k];
        }
        UNROLL for (int k = 0; k < D; k++) U[i * D + k] = u[k], V[i * D + k] = v[k];
    }
    for (int i = R; i < P; i++) {
        vec u[D];
        row_times(U + i * D, by_V, u);
        UNROLL for (int k = 0; k < D; k++) U[i * D + k] = u[k];
    }
    for (int i = R; i < Q; i++) {
        vec v[D];
        row_times(V + i * D, by_U, v);
        UNROLL for (int k = 0; k < D; k++) V[i * D + k] = v[k];
    }
}

/* `pull` holds step·σ_i. */
void descend(float *tiles, long count, const float *pull, float step, long steps) {
#if defined(__SSE__)
    /* XLA flushes denormal numbers to zero too; without it the decaying rows would cost a hundred times more. */
    unsigned before = _mm_getcsr();
    _mm_setcsr(before | 0x8040);
#endif
    for (long t = 0; t < count; t++) {
        vec *U = (vec *)tiles + t * (P + Q) * D, *V = U + P * D;
        for (long s = 0; s < steps; s++) move(U, V, pull, step);
    }
#if defined(__SSE__)
    _mm_setcsr(before);
#endif
}
