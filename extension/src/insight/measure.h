/* The machine's peak, as the session's threads and instruction set reach it. */
#ifndef LLM_SRC_INSIGHT_MEASURE_H
#define LLM_SRC_INSIGHT_MEASURE_H

#include "postgres.h"

#include "kernels/kernels.h"

typedef struct MachinePeak
{
	const LlmKernels *kernels;
	int threads;
	double flops, bytes; /* a second; 0: there was no memory to measure with, which a NOTICE said */
} MachinePeak;

/* Measured once in a session for an instruction set and number of threads. */
extern const MachinePeak *SessionPeak(void);

#endif
