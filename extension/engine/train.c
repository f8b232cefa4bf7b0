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
	return 3 * t->floats * sizeof(float);
}

static size_t
trainer_bytes(int count)
{
	return sizeof(LlmTrainer) + count * (3 * sizeof(float *) + sizeof(int64_t) + sizeof(int));
}

/* The memory of all gradients, then of all first moments, then of all second moments, each in graph order. */
static void
lay_out(LlmTrainer *t)
{
	float *at = t->store;

	for (int i = 0; i < t->model->graph.count; i++)
		if (llm_is_trainable(&t->model->graph.nodes[i]))
		{
			t->grad[i] = at;
			t->m[i] = at + t->floats;
			t->v[i] = at + 2 * t->floats;
			at += llm_weight_floats(&t->model->weights[i]);
		}
}

static LlmCode
nothing_to_train(LlmError *err)
{
	llm_fail(err, LLM_INVALID, "the graph has no parameter to train");
	return llm_hint(err, "A param is trained unless its attributes say \"trainable\": false.");
}

LlmCode
llm_trainer_open(LlmModel *model, int loss, const LlmAllocator *memory, LlmTrainer **trainer, LlmError *err)
{
	int count = model->graph.count, trainable = 0;
	size_t bytes = trainer_bytes(count);
	LlmTrainer *t = memory->alloc(memory->context, bytes);
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
		trainable += llm_is_trainable(&model->graph.nodes[i]);
		if (llm_is_trainable(&model->graph.nodes[i]))
			t->floats += llm_weight_floats(&model->weights[i]);
	}
	if (trainable == 0)
	{
		llm_trainer_close(t);
		return nothing_to_train(err);
	}
	t->store = memory->alloc(memory->context, store_bytes(t));
	if (t->store == NULL)
	{
		code =
			llm_fail(err, LLM_NO_MEMORY, "no memory for gradients and moments of %zu parameters", t->floats);
		llm_trainer_close(t);
		return code;
	}
	lay_out(t);
	code = llm_fill(3 * t->floats, 0, t->store, err);
	if (code == LLM_OK)
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

/* Makes a node's weight, gradient and moments row-major: they then match those of any other node. */
static LlmCode
flatten(LlmTrainer *t, int node, const LlmAllocator *weights, LlmError *err)
{
	LlmWeight *w = &t->model->weights[node];
	float *from[3] = {t->grad[node], t->m[node], t->v[node]};
	size_t bytes = w->numel * sizeof(float);
	float *plain;
	LlmCode code = LLM_OK;

	if (w->plain)
		return LLM_OK;
	plain = t->memory->alloc(t->memory->context, bytes);
	if (plain == NULL)
		return llm_fail(err, LLM_NO_MEMORY, "no memory to share parameter \"%s\" (%zu elements)",
			t->model->graph.nodes[node].name, w->numel);
	for (int i = 0; i < 3 && code == LLM_OK; i++)
	{
		code = llm_weight_unpack(t->model, node, from[i], plain, err);
		if (code == LLM_OK)
			code = llm_copy(w->numel, plain, from[i], err);
	}
	t->memory->release(t->memory->context, plain, bytes);
	return code == LLM_OK ? llm_weight_flatten(t->model, node, weights, err) : code;
}

/* Freezes the parameter and all nodes that share it. */
static LlmCode
freeze(LlmTrainer *t, int owner, LlmError *err)
{
	bool trains = false;

	for (int i = 0; i < t->model->graph.count; i++)
	{
		if (t->owner[i] == owner)
			t->grad[i] = t->m[i] = t->v[i] = NULL;
		trains |= t->grad[i] != NULL;
	}
	return trains ? LLM_OK : nothing_to_train(err);
}

LlmCode
llm_trainer_tie(LlmTrainer *t, int node, int owner, const LlmAllocator *weights, LlmError *err)
{
	LlmCode code;

	if (t->grad[node] == NULL || t->grad[owner] == NULL)
	{
		t->owner[node] = owner;
		return freeze(t, owner, err);
	}
	code = flatten(t, owner, weights, err);
	if (code == LLM_OK)
		code = flatten(t, node, weights, err);
	if (code != LLM_OK)
		return code;
	t->owner[node] = owner;
	t->grad[node] = t->grad[owner];
	t->m[node] = t->m[owner];
	t->v[node] = t->v[owner];
	return LLM_OK;
}

LlmCode
llm_trainer_gradients(LlmTrainer *t, const LlmInput *inputs, int n_inputs, const LlmDropout *dropout,
	float weight, float *loss, LlmError *err)
{
	LlmValue value;
	LlmCode code = t->spoilt ? llm_fill(t->floats, 0, t->store, err) : LLM_OK;

	if (code != LLM_OK)
		return code;
	llm_exec_train(t->exec, dropout, t->grad);
	llm_exec_keep(t->exec, &t->keeping);
	llm_exec_weigh(t->exec, weight);
	code = llm_exec_run(t->exec, inputs, n_inputs, &value, err);
	if (code == LLM_OK)
	{
		*loss = value.floats[0];
		code = llm_exec_backward(t->exec, t->grad, err);
	}
	t->spoilt = code != LLM_OK; /* an unknown part of this micro-batch's gradient may have been added */
	return code;
}

/* The norm of the whole gradient: tensors in graph order, each summed in float64. */
static LlmCode
global_norm(const LlmTrainer *t, double scale, double *norm, LlmError *err)
{
	double total = 0, sum;
	LlmCode code = LLM_OK;

	for (int i = 0; code == LLM_OK && i < t->model->graph.count; i++)
		if (t->grad[i] && t->owner[i] == i)
		{
			code = llm_weight_sum_squares(t->model, i, t->grad[i], &sum, t->memory, err);
			total += sum;
		}
	*norm = sqrt(total) * scale;
	return code;
}

/* Copies the weight of the owner, which has been updated already. */
static LlmCode
follow(LlmTrainer *t, int node, LlmError *err)
{
	LlmWeight *w = &t->model->weights[node];

	if (llm_copy(w->numel, t->model->weights[t->owner[node]].plain, w->plain, err) != LLM_OK)
		return err->code;
	return llm_weight_repack(t->model, node, err);
}

/* Updates weight, gradient and moments in one pass: they have the same layout. */
static LlmCode
step_node(LlmTrainer *t, int node, const LlmHyper *hyper, int64_t step, double scale, LlmError *err)
{
	LlmWeight *w = &t->model->weights[node];
	double decay = t->model->graph.nodes[node].ndim >= 2 ? hyper->weight_decay : 0;
	LlmAdamW h = llm_adamw_scalars(
		hyper->lr, hyper->beta1, hyper->beta2, hyper->eps, decay, step + t->offset[node], scale);
	LlmCode code = llm_adamw_and_zero(
		llm_weight_floats(w), llm_weight_data(w), t->grad[node], t->m[node], t->v[node], &h, err);

	return code == LLM_OK ? llm_weight_repack(t->model, node, err) : code;
}

LlmCode
llm_trainer_update(
	LlmTrainer *t, const LlmHyper *hyper, int64_t step, int micro_batches, double *norm, LlmError *err)
{
	double scale = 1.0 / micro_batches;
	LlmCode code = global_norm(t, scale, norm, err);

	if (code != LLM_OK)
		return code;
	if (!isfinite(*norm))
	{
		llm_fail(err, LLM_RANGE, "the gradient's norm is %f", *norm);
		return llm_hint(err, "The weights are as before. A smaller learning rate or grad_clip may help.");
	}
	if (hyper->clip > 0 && *norm > hyper->clip)
		scale *= hyper->clip / *norm;
	for (int i = 0; code == LLM_OK && i < t->model->graph.count; i++)
		if (t->grad[i])
			code = t->owner[i] == i ? step_node(t, i, hyper, step, scale, err) : follow(t, i, err);
	return code;
}
