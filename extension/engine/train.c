/*
 * See train.h.
 */
#include "engine/train.h"

#include <math.h>
#include <string.h>

#include "engine/gradients.h"

static size_t
store_bytes(const LlmTrainer *t)
{
	return 3 * t->numel * sizeof(float);
}

static size_t
trainer_bytes(int count)
{
	return sizeof(LlmTrainer) + count * (3 * sizeof(float *) + sizeof(int64_t) + sizeof(int));
}

LlmCode
llm_trainer_open(LlmModel *model, int loss, const LlmAllocator *memory, LlmTrainer **trainer, LlmError *err)
{
	int count = model->graph.count;
	size_t bytes = trainer_bytes(count);
	LlmTrainer *t = memory->alloc(memory->context, bytes);
	float *at;
	LlmCode code;

	*trainer = NULL;
	if (t == NULL)
		return llm_fail(err, LLM_NO_MEMORY, "no memory to train %d nodes", count);
	memset(t, 0, bytes);
	t->model = model;
	t->memory = memory;
	t->grad = (float **) (t + 1);
	t->m = t->grad + count;
	t->v = t->m + count;
	t->offset = (int64_t *) (t->v + count);
	t->owner = (int *) (t->offset + count);
	for (int i = 0; i < count; i++)
	{
		t->owner[i] = i;
		t->numel += model->weights[i].numel;
	}
	t->store = memory->alloc(memory->context, store_bytes(t));
	if (t->store == NULL)
	{
		code =
			llm_fail(err, LLM_NO_MEMORY, "no memory for gradients and moments of %zu parameters", t->numel);
		llm_trainer_close(t);
		return code;
	}
	memset(t->store, 0, store_bytes(t));
	at = t->store;
	for (int i = 0; i < count; i++)
		if (model->graph.nodes[i].op == LLM_OP_PARAM)
		{
			t->grad[i] = at;
			t->m[i] = at + t->numel;
			t->v[i] = at + 2 * t->numel;
			at += model->weights[i].numel;
		}
	code = llm_exec_open(model, loss, false, 0, memory, &t->exec, err);
	if (code != LLM_OK)
		llm_trainer_close(t);
	else
		*trainer = t;
	return code;
}

void
llm_trainer_close(LlmTrainer *t)
{
	if (t == NULL)
		return;
	llm_exec_close(t->exec);
	if (t->store)
		t->memory->release(t->memory->context, t->store, store_bytes(t));
	t->memory->release(t->memory->context, t, trainer_bytes(t->model->graph.count));
}

void
llm_trainer_tie(LlmTrainer *t, int node, int owner)
{
	t->owner[node] = owner;
	t->grad[node] = t->grad[owner];
	t->m[node] = t->m[owner];
	t->v[node] = t->v[owner];
}

LlmCode
llm_trainer_gradients(LlmTrainer *t, const LlmInput *inputs, int n_inputs, const LlmDropout *dropout,
	float *loss, LlmError *err)
{
	LlmValue value;
	LlmCode code;

	llm_exec_train(t->exec, dropout, t->grad);
	code = llm_exec_run(t->exec, inputs, n_inputs, &value, err);
	if (code == LLM_OK)
	{
		*loss = value.floats[0];
		code = llm_exec_backward(t->exec, t->grad, err);
	}
	if (code != LLM_OK) /* some parts of this micro-batch's may have been added */
		memset(t->store, 0, t->numel * sizeof(float));
	return code;
}

/* Tensors in graph order, each summed in float64. */
static double
global_norm(const LlmTrainer *t, double scale)
{
	double total = 0;

	for (int i = 0; i < t->model->graph.count; i++)
		if (t->grad[i] && t->owner[i] == i)
			total += llm_kernels->sum_squares(t->model->weights[i].numel, t->grad[i], 0);
	return sqrt(total) * scale;
}

LlmCode
llm_trainer_update(
	LlmTrainer *t, const LlmHyper *hyper, int64_t step, int micro_batches, double *norm, LlmError *err)
{
	double scale = 1.0 / micro_batches;
	LlmCode code = LLM_OK;

	*norm = global_norm(t, scale);
	if (!isfinite(*norm))
	{
		llm_fail(err, LLM_RANGE, "the gradient's norm is %f", *norm);
		return llm_hint(err, "The weights are as before. A smaller learning rate or grad_clip may help.");
	}
	if (hyper->clip > 0 && *norm > hyper->clip)
		scale *= hyper->clip / *norm;
	for (int i = 0; code == LLM_OK && i < t->model->graph.count; i++)
	{
		LlmWeight *w = &t->model->weights[i];
		double decay = t->model->graph.nodes[i].ndim >= 2 ? hyper->weight_decay : 0;
		LlmAdamW h = llm_adamw_numbers(
			hyper->lr, hyper->beta1, hyper->beta2, hyper->eps, decay, step + t->offset[i], scale);

		if (t->grad[i] == NULL)
			continue;
		if (t->owner[i] != i)
			memcpy(w->plain, t->model->weights[t->owner[i]].plain, w->numel * sizeof(float));
		else
			code = llm_adamw(w->numel, w->plain, t->grad[i], t->m[i], t->v[i], &h, err);
		if (code == LLM_OK)
			code = llm_weight_repack(t->model, i, err);
	}
	if (code == LLM_OK)
		memset(t->store, 0, t->numel * sizeof(float));
	return code;
}
