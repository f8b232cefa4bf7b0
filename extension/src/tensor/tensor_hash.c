/*
 * The server's hash_bytes_extended (Bob Jenkins' lookup3) over whole words, with the same result but
 * interruptible: the server's own cannot be canceled before it has read all data.
 */
#include "postgres.h"

#include "port/pg_bitutils.h"

#include "src/base/errors.h"
#include "src/tensor/tensor.h"

typedef struct State
{
	uint32 a, b, c;
} State;

#define TURN(x, y, bits) ((x) ^= pg_rotate_left32(y, bits))

static inline State
Mix(State s)
{
	s.a -= s.c, TURN(s.a, s.c, 4), s.c += s.b;
	s.b -= s.a, TURN(s.b, s.a, 6), s.a += s.c;
	s.c -= s.b, TURN(s.c, s.b, 8), s.b += s.a;
	s.a -= s.c, TURN(s.a, s.c, 16), s.c += s.b;
	s.b -= s.a, TURN(s.b, s.a, 19), s.a += s.c;
	s.c -= s.b, TURN(s.c, s.b, 4), s.b += s.a;
	return s;
}

static State
Final(State s)
{
	s.c ^= s.b, s.c -= pg_rotate_left32(s.b, 14);
	s.a ^= s.c, s.a -= pg_rotate_left32(s.c, 11);
	s.b ^= s.a, s.b -= pg_rotate_left32(s.a, 25);
	s.c ^= s.b, s.c -= pg_rotate_left32(s.b, 16);
	s.a ^= s.c, s.a -= pg_rotate_left32(s.c, 4);
	s.b ^= s.a, s.b -= pg_rotate_left32(s.a, 14);
	s.c ^= s.b, s.c -= pg_rotate_left32(s.b, 24);
	return s;
}

uint64
HashWords(const void *data, Size size, uint64 seed)
{
	uint32 start = 0x9e3779b9 + (uint32) size + 3923095, w[3];
	State s = {start, start, start};
	Size at = 0;

	if (seed != 0)
	{
		s.a += (uint32) (seed >> 32);
		s.b += (uint32) seed;
		s = Mix(s);
	}
	for (; size - at >= sizeof(w); at += sizeof(w))
	{
		LLM_POLL(at / sizeof(w));
		memcpy(w, (const char *) data + at, sizeof(w));
		s = Mix((State){s.a + w[0], s.b + w[1], s.c + w[2]});
	}
	memset(w, 0, sizeof(w));
	memcpy(w, (const char *) data + at, size - at);
	s = Final((State){s.a + w[0], s.b + w[1], s.c});
	return (uint64) s.b << 32 | s.c;
}
