#include "formats/floats.h"

#include <string.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "tensors are stored and read as little-endian; this machine is big-endian"
#endif

#define QUIET_NAN 0x7fc00000u

size_t
llm_dtype_size(LlmDtype dtype)
{
	static const size_t sizes[] = {4, 2, 2, 8, 0};

	return sizes[dtype];
}

static inline uint16_t
load16(const unsigned char *p, bool swapped)
{
	uint16_t bits;

	memcpy(&bits, p, sizeof(bits));
	return swapped ? __builtin_bswap16(bits) : bits;
}

static inline uint32_t
canonical(uint32_t bits)
{
	return (bits & 0x7fffffff) > 0x7f800000 ? QUIET_NAN : bits;
}

static inline uint32_t
from_half(uint16_t half)
{
	uint32_t sign = (uint32_t) (half & 0x8000) << 16, exponent = half >> 10 & 31, fraction = half & 0x3ff;
	float value;
	uint32_t bits;

	if (exponent == 31)
		return sign | 0x7f800000 | fraction << 13;
	if (exponent > 0)
		return sign | (exponent + 112) << 23 | fraction << 13;
	value = (float) fraction * 0x1p-24f; /* zero or subnormal: exact */
	memcpy(&bits, &value, sizeof(bits));
	return sign | bits;
}

static inline uint32_t
from_double(const unsigned char *p, bool swapped)
{
	uint64_t wide;
	double value;
	float narrow;
	uint32_t bits;

	memcpy(&wide, p, sizeof(wide));
	if (swapped)
		wide = __builtin_bswap64(wide);
	memcpy(&value, &wide, sizeof(value));
	narrow = (float) value; /* beyond float32's range: infinity, as everywhere */
	memcpy(&bits, &narrow, sizeof(bits));
	return bits;
}

void
llm_floats_from(LlmDtype dtype, bool swapped, const void *raw, size_t count, float *out)
{
	const unsigned char *p = raw;
	size_t width = llm_dtype_size(dtype);

	for (size_t i = 0; i < count; i++)
	{
		uint32_t bits = 0;

		switch (dtype)
		{
			case LLM_F32:
				memcpy(&bits, p + i * width, sizeof(bits));
				bits = swapped ? __builtin_bswap32(bits) : bits;
				break;
			case LLM_F16:
				bits = from_half(load16(p + i * width, swapped));
				break;
			case LLM_BF16:
				bits = (uint32_t) load16(p + i * width, swapped) << 16;
				break;
			case LLM_F64:
				bits = from_double(p + i * width, swapped);
				break;
			case LLM_OTHER_DTYPE:
				break;
		}
		bits = canonical(bits);
		memcpy(out + i, &bits, sizeof(bits));
	}
}
