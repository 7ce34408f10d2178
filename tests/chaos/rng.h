/* Numbers from a seed (splitmix64): the same on every machine. */
#ifndef TESTS_CHAOS_RNG_H
#define TESTS_CHAOS_RNG_H

#include <stdint.h>

struct rng {
	uint64_t state;
};

static inline uint64_t
rng_mix(uint64_t z)
{
	z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
	return z ^ (z >> 31);
}

/* Of a part of what the seed decides; parts do not depend on each other. */
static inline struct rng
rng_of(uint64_t seed, uint64_t part)
{
	return (struct rng){rng_mix(seed + 1) ^ rng_mix(~part)};
}

static inline uint64_t
rng_next(struct rng *r)
{
	r->state += UINT64_C(0x9e3779b97f4a7c15);
	return rng_mix(r->state);
}

/* 0 … n - 1 */
static inline uint64_t
rng_below(struct rng *r, uint64_t n)
{
	return rng_next(r) % n;
}

static inline uint64_t
rng_range(struct rng *r, uint64_t least, uint64_t most)
{
	return least + rng_below(r, most - least + 1);
}

static inline int
rng_chance(struct rng *r, unsigned percent)
{
	return rng_below(r, 100) < percent;
}

/* 1 … 2^bits, small ones as often as large ones. */
static inline uint64_t
rng_log(struct rng *r, unsigned bits)
{
	uint64_t top = UINT64_C(1) << rng_below(r, bits + 1);

	return 1 + rng_below(r, top);
}

#endif
