/*
 * The one executor: computes a node of a model from named inputs. A forward of a whole text, a decode step
 * that continues from cached keys and values, and any node in between are the same run.
 */
#ifndef LLM_EXECUTE_H
#define LLM_EXECUTE_H

#include "engine/model.h"

typedef struct LlmInput
{
	const char *name;
	int ndim;
	int dims[LLM_MAX_DIMS];
	const float *floats; /* one of the two */
	const int32_t *integers;
} LlmInput;

typedef struct LlmValue
{
	int ndim;
	int dims[LLM_MAX_DIMS];
	size_t numel;
	const float *floats;
	const int32_t *integers;
} LlmValue;

typedef struct LlmExec LlmExec;

/*
 * Plans the computation of `target`. last_only: only the last position's row of it is wanted (where it has
 * the dimension T), and rows that nobody reads are not computed. capacity: positions the key/value caches
 * have room for. The model must outlive the run.
 */
extern LlmCode llm_exec_open(const LlmModel *model, int target, bool last_only, int capacity,
	const LlmAllocator *memory, LlmExec **exec, LlmError *err);
/*
 * Computes target for T new positions after those of earlier runs; result lives until the next run or close.
 * After an error the run can be tried again, as if it had not been.
 */
extern LlmCode llm_exec_run(
	LlmExec *exec, const LlmInput *inputs, int n_inputs, LlmValue *result, LlmError *err);
/* May later runs continue, position by position? Else each must start over with the whole text. */
extern bool llm_exec_continues(const LlmExec *exec);
extern int llm_exec_length(const LlmExec *exec);
/* Sequence i of the batch becomes what sequence rows[i] was (beam search). After an error only close is left.
 */
extern LlmCode llm_exec_reorder(LlmExec *exec, const int *rows, int B, LlmError *err);
extern void llm_exec_close(LlmExec *exec);

#endif
