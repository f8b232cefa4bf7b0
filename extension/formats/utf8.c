#include "formats/utf8.h"

size_t
llm_utf8_length(const char *text, size_t size)
{
	const unsigned char *t = (const unsigned char *) text;
	size_t length = t[0] < 0x80   ? 1
					: t[0] < 0xc2 ? 0
					: t[0] < 0xe0 ? 2
					: t[0] < 0xf0 ? 3
					: t[0] < 0xf5 ? 4
								  : 0;

	if (length > size)
		return 0;
	for (size_t i = 1; i < length; i++)
		if ((t[i] & 0xc0) != 0x80)
			return 0;
	if ((t[0] == 0xe0 && t[1] < 0xa0) || (t[0] == 0xed && t[1] > 0x9f) || /* overlong, surrogate */
		(t[0] == 0xf0 && t[1] < 0x90) || (t[0] == 0xf4 && t[1] > 0x8f))   /* overlong, past U+10FFFF */
		return 0;
	return length;
}

size_t
llm_utf8_encode(uint32_t c, char *out)
{
	if (c < 0x80)
	{
		out[0] = (char) c;
		return 1;
	}
	if (c < 0x800)
	{
		out[0] = (char) (0xc0 | c >> 6);
		out[1] = (char) (0x80 | (c & 0x3f));
		return 2;
	}
	if (c < 0x10000)
	{
		out[0] = (char) (0xe0 | c >> 12);
		out[1] = (char) (0x80 | (c >> 6 & 0x3f));
		out[2] = (char) (0x80 | (c & 0x3f));
		return 3;
	}
	out[0] = (char) (0xf0 | c >> 18);
	out[1] = (char) (0x80 | (c >> 12 & 0x3f));
	out[2] = (char) (0x80 | (c >> 6 & 0x3f));
	out[3] = (char) (0x80 | (c & 0x3f));
	return 4;
}
