/* See random.h. Integer and float64 arithmetic only, compiled once: the same numbers on every machine. */
#include <math.h>
#include <string.h>

#include "kernels/random.h"

LlmStream
llm_stream(uint64_t seed, const char *name, uint32_t step, uint32_t micro_batch)
{
	uint64_t hash = 14695981039346656037u; /* FNV-1a of the name, then of the seed */

	for (const char *c = name; *c; c++)
		hash = (hash ^ (unsigned char) *c) * 1099511628211u;
	for (int i = 0; i < 8; i++)
		hash = (hash ^ ((seed >> (8 * i)) & 0xff)) * 1099511628211u;
	return (LlmStream){{(uint32_t) hash, (uint32_t) (hash >> 32)}, step, micro_batch};
}

void
llm_philox(const LlmStream *stream, uint64_t block, uint32_t out[4])
{
	uint32_t c[4] = {(uint32_t) block, (uint32_t) (block >> 32), stream->step, stream->micro_batch};
	uint32_t k0 = stream->key[0], k1 = stream->key[1];

	for (int round = 0; round < 10; round++, k0 += 0x9E3779B9u, k1 += 0xBB67AE85u)
	{
		uint64_t a = (uint64_t) c[0] * 0xD2511F53u, b = (uint64_t) c[2] * 0xCD9E8D57u;
		uint32_t n0 = (uint32_t) (b >> 32) ^ c[1] ^ k0, n2 = (uint32_t) (a >> 32) ^ c[3] ^ k1;

		c[1] = (uint32_t) b;
		c[3] = (uint32_t) a;
		c[0] = n0;
		c[2] = n2;
	}
	memcpy(out, c, sizeof(c));
}

double
llm_uniform(const LlmStream *stream, uint64_t element)
{
	uint32_t w[4];

	llm_philox(stream, element >> 1, w);
	return (double) (((uint64_t) w[(element & 1) * 2] << 21) ^ (w[(element & 1) * 2 + 1] >> 11)) * 0x1p-53;
}

void
llm_drop(const LlmStream *stream, float p, uint64_t first, size_t n, const float *x, float *out)
{
	uint64_t threshold = (uint64_t) ((double) p * 4294967296.0);
	float scale = p < 1 ? 1 / (1 - p) : 0;
	uint32_t word[4] = {0};

	for (size_t i = 0; i < n; i++)
	{
		if (i == 0 || (first + i) % 4 == 0)
			llm_philox(stream, (first + i) / 4, word);
		out[i] = word[(first + i) % 4] < threshold ? 0 : x[i] * scale;
	}
}

/* log of x in (0,1]: x = 2^e m, then the atanh series of (m-1)/(m+1), |t| <= 0.1716 */
double
llm_log_unit(double x)
{
	uint64_t bits;
	int e;
	double m, t, z, p;

	memcpy(&bits, &x, 8);
	e = (int) (bits >> 52) - 1023;
	bits = (bits & 0xfffffffffffffu) | 0x3ff0000000000000u;
	memcpy(&m, &bits, 8);
	if (m > 1.4142135623730951)
	{
		m *= 0.5;
		e++;
	}
	t = (m - 1) / (m + 1);
	z = t * t;
	p = 0;
	for (int k = 23; k >= 1; k -= 2)
		p = p * z + 1.0 / k;
	return e * 0.69314718055994531 + 2 * t * p;
}

/* cos and sin of 2 pi u, u in [0,1): the quarter turn by symmetry, then Taylor on [-pi/4, pi/4] */
static void
circle(double u, double *cosine, double *sine)
{
	int quarter = (int) (u * 4 + 0.5);
	double a = (u - quarter * 0.25) * 6.2831853071795865, z = a * a, c = 0, s = 0;

	for (int k = 16; k >= 2; k -= 2)
		c = (c + 1) * (-z / (k * (k - 1)));
	for (int k = 17; k >= 3; k -= 2)
		s = (s + 1) * (-z / (k * (k - 1)));
	c += 1;
	s = (s + 1) * a;
	*cosine = (quarter & 3) == 0 ? c : (quarter & 3) == 1 ? -s : (quarter & 3) == 2 ? -c : s;
	*sine = (quarter & 3) == 0 ? s : (quarter & 3) == 1 ? c : (quarter & 3) == 2 ? -s : -c;
}

/* Box-Muller (1958): elements 4b … 4b+3 come from the four words of block b */
void
llm_normal(const LlmStream *stream, uint64_t first, size_t n, float scale, float *out)
{
	double z[4] = {0};

	for (size_t i = 0; i < n; i++)
	{
		uint64_t element = first + i;

		if (i == 0 || (element & 3) == 0)
		{
			uint32_t w[4];

			llm_philox(stream, element >> 2, w);
			for (int h = 0; h < 2; h++)
			{
				double radius = sqrt(-2 * llm_log_unit((w[2 * h] + 1.0) * 0x1p-32)), c, s;

				circle(w[2 * h + 1] * 0x1p-32, &c, &s);
				z[2 * h] = radius * c;
				z[2 * h + 1] = radius * s;
			}
		}
		out[i] = (float) z[element & 3] * scale;
	}
}
