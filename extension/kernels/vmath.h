/*
 * Elementary functions on vectors, never libm's: its last bits differ between versions. Polynomials are
 * minimax fits made for this file; errors measured over all floats are in README.md.
 */
#ifndef LLM_VMATH_H
#define LLM_VMATH_H

#include "kernels/simd.h"

/* 1.5 * 2^23: adding it rounds to the nearest integer, which is then in the low bits. */
#define V_ROUND 12582912.0f

/* exp: x = n ln2 + r, |r| <= ln2/2; below -87.3 it is 0, so that no result is a denormal. */
INLINE vf
v_exp(vf x)
{
	vf t = v_fma(x, v_set(0x1.715476p+0f), v_set(V_ROUND));
	vf n = t - v_set(V_ROUND);
	vf r = v_fma(n, v_set(-0x1.62e400p-1f), x); /* ln2 in two parts, the first exact in 16 bits */
	vf p, y;

	r = v_fma(n, v_set(-0x1.7f7d1cp-20f), r);
	p = v_set(0x1.a6d86cp-13f);
	p = v_fma(p, r, v_set(0x1.6d100ep-10f));
	p = v_fma(p, r, v_set(0x1.110edcp-7f));
	p = v_fma(p, r, v_set(0x1.555512p-5f));
	p = v_fma(p, r, v_set(0x1.555556p-3f));
	p = v_fma(p, r, v_set(0.5f));
	p = v_fma(p * r, r, r) + v_set(1.0f);
	/* times 2^n: n is in t's low bits; p is in [0.7, 1.42], so the sum of exponents cannot leave its field */
	y = v_float(v_bits(p) + (v_bits(t) << 23));
	y = v_select(v_lt(x, v_set(-87.3f)), v_set(0.0f), y);
	y = v_select(v_lt(v_set(0x1.62e42ep+6f), x), V_INF, y);
	return v_select(v_isnan(x), V_NAN, y);
}

/* log: x = 2^e m, m in [sqrt(1/2), sqrt(2)) */
INLINE vf
v_log(vf x)
{
	vm tiny = v_lt(x, v_set(0x1p-126f));
	vf scaled = v_select(tiny, x * v_set(0x1p23f), x);
	vi bits = v_bits(scaled) - v_iset(0x3f3504f3u);
	/* the exponent as a float, by way of the rounding constant's low bits; 256 keeps it positive meanwhile */
	vi e = (bits + v_iset(256u << 23)) >> 23;
	vf k = v_float(e + v_iset(0x4b400000u)) - v_set(V_ROUND + 256.0f);
	vf f = v_float((bits & v_iset(0x007fffffu)) + v_iset(0x3f3504f3u)) - v_set(1.0f);
	vf p, y;

	k = k - v_select(tiny, v_set(23.0f), v_set(0.0f));
	p = v_set(0x1.16c464p-4f);
	p = v_fma(p, f, v_set(-0x1.c7c71cp-4f));
	p = v_fma(p, f, v_set(0x1.d9c254p-4f));
	p = v_fma(p, f, v_set(-0x1.fea1a4p-4f));
	p = v_fma(p, f, v_set(0x1.24320ap-3f));
	p = v_fma(p, f, v_set(-0x1.555616p-3f));
	p = v_fma(p, f, v_set(0x1.999a24p-3f));
	p = v_fma(p, f, v_set(-0x1p-2f));
	p = v_fma(p, f, v_set(0x1.555556p-2f));
	p = p * f * (f * f);
	p = v_fma(k, v_set(0x1.7f7d1cp-20f), p);
	p = v_fma(f * f, v_set(-0.5f), p);
	y = v_fma(k, v_set(0x1.62e400p-1f), p + f);
	y = v_select(v_lt(v_set(0x1.fffffep127f), x), V_INF, y);
	y = v_select(v_lt(x, v_set(0.0f)), V_NAN, y);
	y = v_select(
		v_lt(v_set(0.0f), x), y, v_select(v_lt(x, v_set(0.0f)), V_NAN, v_float(v_iset(0xff800000u))));
	return v_select(v_isnan(x), V_NAN, y);
}

INLINE vf
v_abs(vf x)
{
	return v_float(v_bits(x) & v_iset(0x7fffffffu));
}

INLINE vf
v_copysign(vf magnitude, vf sign)
{
	return v_float(v_bits(magnitude) | (v_bits(sign) & v_iset(0x80000000u)));
}

/* tanh: odd polynomial near zero, else 1 - 2 / (exp(2|x|) + 1) */
INLINE vf
v_tanh(vf x)
{
	vf a = v_abs(x), z = x * x, p, far;

	p = v_set(-0x1.ac3680p-8f);
	p = v_fma(p, z, v_set(0x1.5d7d1ap-6f));
	p = v_fma(p, z, v_set(-0x1.b9c560p-5f));
	p = v_fma(p, z, v_set(0x1.1110e2p-3f));
	p = v_fma(p, z, v_set(-0x1.555556p-2f));
	p = v_fma(p * z, x, x);
	far = v_set(1.0f) - v_set(2.0f) / (v_exp(a + a) + v_set(1.0f));
	/* the sign is set near zero, too: the polynomial's sum turns -0 into +0 */
	return v_select(v_isnan(x), V_NAN, v_copysign(v_select(v_lt(a, v_set(0.625f)), p, far), x));
}

/* erf: odd polynomial near zero, else 1 - exp(-a q(a)), which is 1 from 4 on */
INLINE vf
v_erf(vf x)
{
	vf a = v_abs(x), z = x * x, p, q, far;

	p = v_set(-0x1.3f3664p-11f);
	p = v_fma(p, z, v_set(0x1.48f7b6p-8f));
	p = v_fma(p, z, v_set(-0x1.b6f3fep-6f));
	p = v_fma(p, z, v_set(0x1.ce2478p-4f));
	p = v_fma(p, z, v_set(-0x1.81273ap-2f));
	p = v_fma(p, z, v_set(0x1.06eba8p-3f));
	p = v_fma(p, x, x);
	a = v_select(v_lt(a, v_set(4.0f)), a, v_set(4.0f));
	q = v_set(0x1.2c399cp-18f);
	q = v_fma(q, a, v_set(-0x1.8dcce2p-15f));
	q = v_fma(q, a, v_set(0.0f));
	q = v_fma(q, a, v_set(0x1.5f83f4p-9f));
	q = v_fma(q, a, v_set(-0x1.6a1488p-6f));
	q = v_fma(q, a, v_set(0x1.ac4ecep-4f));
	q = v_fma(q, a, v_set(0x1.45a892p-1f));
	q = v_fma(q, a, v_set(0x1.20e1eap+0f));
	far = v_set(1.0f) - v_exp(-(q * a));
	return v_select(v_lt(v_abs(x), v_set(0.9225f)), p, v_select(v_isnan(x), V_NAN, v_copysign(far, x)));
}

/*
 * sin and cos: x = n pi/2 + r, |r| <= pi/4. Up to V_TURNS, n pi/2 is subtracted in three parts, each fused:
 * the first difference is exact, and the parts are positive, so that -0 is kept. Above, 2/pi is a
 * fixed-point number. A float is an integer times 2^e, so only 96 bits of 2/pi matter: those before them add
 * whole turns, those after them are too small to change the result.
 */
#define V_TURNS 131072.0f

/* r of a finite float above V_TURNS; adds the quarter turns to *n. */
static float
reduce_huge(float x, uint32_t *n)
{
	static const uint32_t two_over_pi[] = {
		0, 0xa2f9836e, 0x4e441529, 0xfc2757d1, 0xf534ddc0, 0xdb629599, 0x3c439041, 0xfe5163ab};
	uint32_t bits, m, at;
	uint64_t high, middle, low, turn, quarter;
	const uint32_t *word;
	float r;

	memcpy(&bits, &x, sizeof(bits));
	m = (bits & 0x007fffffu) | 0x00800000u;
	at = (bits >> 23 & 0xff) - 150 - 2 + 32; /* x = m 2^e: the bit of 2/pi where e - 2 bits are before it */
	word = two_over_pi + at / 32;
	high = ((uint64_t) word[0] << 32 | word[1]) << at % 32 >> 32;
	middle = ((uint64_t) word[1] << 32 | word[2]) << at % 32 >> 32;
	low = ((uint64_t) word[2] << 32 | word[3]) << at % 32 >> 32;
	turn = (m * high << 32) + m * middle + (m * low >> 32); /* the fraction of a turn, in units of 2^-64 */
	quarter = (turn + (UINT64_C(1) << 61)) >> 62;
	r = (float) ((double) (int64_t) (turn - (quarter << 62)) * 0x1.921fb54442d18p-62);
	*n += bits >> 31 ? -(uint32_t) quarter : (uint32_t) quarter;
	return bits >> 31 ? -r : r;
}

/* sin(x + quarter pi/2), quarter 0 or 1 */
INLINE vf
v_sine(vf x, uint32_t quarter)
{
	vf t = v_fma(x, v_set(0x1.45f306p-1f), v_set(V_ROUND));
	vf n = t - v_set(V_ROUND), r, z, s, c;
	vi turns = v_bits(t) + v_iset(quarter);
	vm huge = v_lt(v_set(V_TURNS), v_abs(x));

	r = v_fma(n, v_set(-0x1.921fb4p+0f), x);
	r = v_fma(n, v_set(-0x1.4442d0p-24f), r);
	r = v_fma(n, v_set(-0x1.84698ap-48f), r);
	if (v_any(huge))
	{
		float lanes[LLM_W], rest[LLM_W];
		uint32_t count[LLM_W];

		v_store(lanes, x);
		v_store(rest, r);
		memcpy(count, &turns, sizeof(count));
		for (int i = 0; i < LLM_W; i++)
			if (fabsf(lanes[i]) > V_TURNS && isfinite(lanes[i]))
			{
				count[i] = quarter;
				rest[i] = reduce_huge(lanes[i], &count[i]);
			}
		r = v_load(rest);
		memcpy(&turns, count, sizeof(count));
	}
	z = r * r;
	s = v_set(0x1.6cd826p-19f);
	s = v_fma(s, z, v_set(-0x1.a00f9cp-13f));
	s = v_fma(s, z, v_set(0x1.111108p-7f));
	s = v_fma(s, z, v_set(-0x1.555556p-3f));
	s = v_copysign(v_fma(s * z, r, r), r); /* keeps -0, too */
	c = v_set(0x1.9a01f2p-16f);
	c = v_fma(c, z, v_set(-0x1.6c0c8ap-10f));
	c = v_fma(c, z, v_set(0x1.55554ap-5f));
	c = v_fma(c * z, z, v_fma(z, v_set(-0.5f), v_set(1.0f)));
	/* odd quarter turns use the cosine; those of the lower half change the sign */
	s = v_select(v_lt(v_set(0.5f), v_float((turns & v_iset(1)) * v_iset(0x3f800000u))), c, s);
	s = v_float(v_bits(s) ^ ((turns & v_iset(2)) << 30));
	return v_select(v_lt(v_abs(x), V_INF), s, V_NAN);
}

/* x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))), GPT-2's GELU (Hendrycks & Gimpel, 2016) */
INLINE vf
v_gelu_tanh(vf x)
{
	vf u = v_fma(x * x * v_set(0.044715f), x, x) * v_set(0x1.988454p-1f);

	return v_set(0.5f) * x * (v_set(1.0f) + v_tanh(u));
}

/* x/2 (1 + erf(x / sqrt(2))) */
INLINE vf
v_gelu_erf(vf x)
{
	return v_set(0.5f) * x * (v_set(1.0f) + v_erf(x * v_set(0x1.6a09e6p-1f)));
}

#endif
