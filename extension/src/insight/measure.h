/* The machine's peak rates, with the session's threads and instruction set. */
#ifndef LLM_SRC_INSIGHT_MEASURE_H
#define LLM_SRC_INSIGHT_MEASURE_H

#include "postgres.h"

#include "kernels/kernels.h"

typedef struct MachinePeak
{
	const LlmKernels *kernels;
	int threads;
	double flops, bytes; /* per second; 0 if memory was short, which a NOTICE said */
} MachinePeak;

/*
 * Measured once per session for each instruction set and number of threads. reached: operations per second
 * that something was measured at; if the peak is lower, because the machine was busy when it was measured, it
 * is measured again, and is never below.
 */
extern const MachinePeak *SessionPeak(double reached);

#endif
